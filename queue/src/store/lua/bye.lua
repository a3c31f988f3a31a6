-- Closes a session that holds nothing any more. One that still does is left to lapse, so that its jobs are rescued.
-- KEYS 31 s:<sid>, 32 run:<sid>. ARGV 3 sid. Returns 1 if it closed.
if call('EXISTS', KEYS[32]) == 1 then
  return 0
end
call('DEL', KEYS[31])
call('ZREM', SESS, ARGV[3])
return 1
