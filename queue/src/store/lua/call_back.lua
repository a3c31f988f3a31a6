-- Stores the answer for which a job waits. ARGV 3 digest16, 4 payload (the caller keeps it below 64 KiB).
-- A parked job goes to the tail of its lane; one that still runs, or waits for another attempt, finds the answer later.
-- Returns delivered, duplicate, late or unknown.
local now = now_ms()
local digest = ARGV[3]
local m = call('HGET', TOK, digest)
local wait = m and call('HGET', CB, m)
local envelope = wait and call('HGET', JOBS, m)
if not envelope or sub(wait, 2, 17) ~= digest then
  return 'unknown'
end
local state = sub(wait, 1, 1)
if state == 'p' or state == 's' then
  return 'duplicate'
end
-- The deadline counts, not the tick that notices it.
local deadline = call('ZSCORE', PARKED, m)
if state ~= 'w' or (deadline and tonumber(deadline) <= now) then
  return 'late'
end
call('HSET', CB, m, 'p' .. digest .. ARGV[4])
if deadline then
  call('ZREM', PARKED, m)
  note_extras(m, envelope, 2, now)
  if push_ready({ [lane_of(envelope)] = { m } }) then
    wake()
  end
else
  note_extras(m, envelope, 2)
end
return 'delivered'
