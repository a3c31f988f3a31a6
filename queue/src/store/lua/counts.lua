-- Counts, without walking the queue. Returns { now, held, scheduled, running (of the first 1000 sessions), dead, oldest ready in
-- ms or -1, sessions, dead trimmed, poison that waits for its burial, parked, lanes that wait for a limit, lanes with ready jobs,
-- bytes of standing jobs, tenants that have some }.
local now = now_ms()
local sessions = call('ZRANGE', SESS, 0, 999)
local running = 0
for i = 1, #sessions do
  running = running + call('HLEN', P .. 'run:' .. sessions[i])
end
-- The oldest job of a lane is at its head. The first 64 lanes of each band are looked at, and one of those that wait.
local oldest = -1
local function look_at(m)
  local mut, envelope = call('HGET', MUT, m), call('HGET', JOBS, m)
  local ready = mut and read6(mut, 6) or envelope and read6(envelope, 7)
  if ready then
    oldest = math.max(oldest, now - ready, 0)
  end
end
local function look_into(lane)
  local m = call('LINDEX', LANE .. lane, 0)
  if m then
    look_at(m)
  end
end
local suspect = call('LINDEX', SUSPECT, 0)
if suspect then
  look_at(suspect)
end
local in_rings = 0
for band = 0, 3 do
  local ring = KEYS[14 + band]
  local lanes = call('LRANGE', ring, 0, 63)
  for i = 1, #lanes do
    look_into(lanes[i])
  end
  in_rings = in_rings + call('LLEN', ring)
end
local lanes = call('HLEN', ACT)
if lanes > in_rings then
  local ids = call('ZRANGE', DUE, 0, 63)
  for i = 1, #ids do
    local lane = call('LINDEX', P .. 'w:' .. ids[i], 0)
    if lane then
      look_into(lane)
    end
  end
end
local _, bytes = read_usage(call('HGET', USE, '\0'))
local tenants = call('HLEN', USE)
return {
  now, call('HLEN', JOBS), call('ZCARD', SCHED), running, call('ZCARD', DEAD), oldest, call('ZCARD', SESS),
  tonumber(call('HGET', META, 'dead_trimmed') or 0), call('ZCARD', TOBURY), call('ZCARD', PARKED),
  math.max(lanes - in_rings, 0), lanes, bytes, math.max(tenants - 1, 0),
}
