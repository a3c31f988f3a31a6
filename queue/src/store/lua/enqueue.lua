-- Puts up to 500 jobs into the queue.
-- ARGV 3 most jobs that the queue may hold; 4 how many jobs follow; then for each job:
--   m, part (envelope behind the two times), delay_ms or '@' due_ms, unique digest or '', idempotency digest or '',
--   idempotency period in ms
-- Returns a code for each job: '+' created, '=' there already, 'f' full, 'm' no memory; or the 16 bytes of the id of the
-- job that stands in its place (unique or idempotency key).
local now = now_ms()
local limit, count = tonumber(ARGV[3]), tonumber(ARGV[4])
local codes = {}
if call('HGET', META, 'gate') == '1' then
  for i = 1, count do
    codes[i] = 'm'
  end
  return codes
end

local members = {}
for i = 1, count do
  members[i] = ARGV[5 + (i - 1) * 6]
end
local known = call('HMGET', JOBS, unpack(members))
local held = call('HLEN', JOBS)
local stamp = ms6(now) .. ms6(now)
local writes, lanes, ready, taken = {}, {}, false, {}

for i = 1, count do
  local at = 5 + (i - 1) * 6
  local m, part, delay, unique, idempotency = members[i], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local first = idempotency ~= '' and call('GET', P .. 'i:' .. idempotency)
  local stands = unique ~= '' and call('HGET', UQ, unique)
  if known[i] or taken[m] then
    codes[i] = '='
  elseif first then
    codes[i] = first
  elseif stands then
    codes[i] = sub(stands, 1, 16)
  elseif held >= limit then
    codes[i] = 'f'
  else
    held = held + 1
    taken[m] = true
    codes[i] = '+'
    local due = now
    if byte(delay, 1) == 64 then
      due = tonumber(sub(delay, 2))
    elseif delay ~= '0' then
      due = now + tonumber(delay)
    end
    writes[#writes + 1] = m
    if due > now then
      writes[#writes + 1] = ms6(now) .. ms6(due) .. part
      call('ZADD', SCHED, due, m)
    else
      writes[#writes + 1] = stamp .. part
      add_to(lanes, sub(part, 5, 4 + byte(part, 3)), m)
      ready = true
    end
    if unique ~= '' then
      call('HSET', UQ, unique, m)
    end
    if idempotency ~= '' then
      call('SET', P .. 'i:' .. idempotency, sub(m, 1, 16), 'PX', ARGV[at + 5])
    end
  end
end

if #writes > 0 then
  call('HSET', JOBS, unpack(writes))
end
if ready then
  push_ready(lanes, 'RPUSH')
  wake()
end
return codes
