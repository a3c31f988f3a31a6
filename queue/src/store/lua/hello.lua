-- Opens a session.
-- KEYS 31 s:<sid>, 32 run:<sid>. ARGV 3 sid, 4 ttl in ms, 5 slots, 6 info (who this is, for people).
-- Returns the time in ms. Coming twice, it changes nothing: the second may be a copy that was delayed.
local now = now_ms()
local ttl = number(4)
if call('EXISTS', KEYS[31]) == 0 then
  call('HSET', KEYS[31], 'n', 0, 'ttl', ttl, 'slots', ARGV[5], 'info', ARGV[6])
end
call('ZADD', SESS, now + ttl, ARGV[3])
return now
