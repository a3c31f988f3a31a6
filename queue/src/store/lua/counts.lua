-- Counts, without walking the queue. Returns { now, held, scheduled, running, dead, oldest ready in ms or -1, sessions,
-- dead trimmed, poison that waits for its burial }.
local now = now_ms()
local sessions = call('ZRANGE', SESS, 0, 999)
local running = 0
for i = 1, #sessions do
  running = running + call('HLEN', P .. 'run:' .. sessions[i])
end
-- The oldest job of a lane is at its head. The first 64 lanes of each band are looked at.
local oldest = -1
local function look_at(m)
  local mut, envelope = call('HGET', MUT, m), call('HGET', JOBS, m)
  local ready = mut and read6(mut, 6) or envelope and read6(envelope, 7)
  if ready then
    oldest = math.max(oldest, now - ready, 0)
  end
end
local suspect = call('LINDEX', SUSPECT, 0)
if suspect then
  look_at(suspect)
end
for band = 0, 3 do
  local lanes = call('LRANGE', KEYS[14 + band], 0, 63)
  for i = 1, #lanes do
    local m = call('LINDEX', LANE .. lanes[i], 0)
    if m then
      look_at(m)
    end
  end
end
return {
  now, call('HLEN', JOBS), call('ZCARD', SCHED), running, call('ZCARD', DEAD), oldest, #sessions,
  tonumber(call('HGET', META, 'dead_trimmed') or 0), call('ZCARD', TOBURY),
}
