-- Keeps how far a job is. ARGV 5 done6 total6. Returns 1, or 0 if the job is not held.
if not held() then
  return 0
end
call('HSET', PROG, m, ARGV[5])
return 1
