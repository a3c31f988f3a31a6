-- Opens a session.
-- KEYS 18 s:<sid>, 19 run:<sid>. ARGV 3 sid, 4 ttl in ms, 5 slots, 6 info (who this is, for people).
-- Returns the time in ms.
local now = now_ms()
call('HSET', KEYS[18], 'n', 0, 'ttl', ARGV[4], 'slots', ARGV[5], 'info', ARGV[6])
call('ZADD', SESS, now + ARGV[4], ARGV[3])
return now
