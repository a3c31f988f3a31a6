-- Keeps a state for the next attempt. ARGV 5 the state (the caller keeps it below 64 KiB). Returns 1, or 0 if the job is not held.
local envelope = held()
if not envelope then
  return 0
end
note_extras(m, envelope, 1)
call('HSET', CKPT, m, ARGV[5])
return 1
