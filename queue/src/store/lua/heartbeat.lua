-- Extends a session.
-- KEYS 18 s:<sid>, 19 run:<sid>. ARGV 3 sid.
-- Returns { OK or GONE, now, leases held, n }.
local now = now_ms()
local session = call('HMGET', KEYS[18], 'ttl', 'n')
if not session[1] then
  return { 'GONE', now }
end
call('ZADD', SESS, now + session[1], ARGV[3])
return { 'OK', now, call('HLEN', KEYS[19]), tonumber(session[2]) }
