-- Extends a session, and names those of its jobs that are to stop.
-- KEYS 31 s:<sid>, 32 run:<sid>. ARGV 3 sid.
-- Returns { OK or GONE, now, leases held, n, { m to stop, ... } }. A session runs 1000 jobs at most.
local now = now_ms()
local session = call('HMGET', KEYS[31], 'ttl', 'n')
if not session[1] then
  return { 'GONE', now }
end
call('ZADD', SESS, now + session[1], ARGV[3])
local stop = {}
if call('EXISTS', CANCEL) == 1 then
  local running = call('HKEYS', KEYS[32])
  local marked = #running > 0 and call('HMGET', CANCEL, unpack(running, 1, math.min(#running, 4000))) or {}
  for i = 1, #running do
    if marked[i] then
      stop[#stop + 1] = running[i]
    end
  end
end
return { 'OK', now, call('HLEN', KEYS[32]), tonumber(session[2]), stop }
