-- Puts up to 500 jobs into the queue.
-- ARGV 3 most jobs that the queue may hold; 4 how many jobs follow; then for each job:
--   m, part (envelope behind the two times), delay_ms or '@' due_ms, unique digest or '', idempotency digest or '',
--   idempotency period in ms
-- Returns a code for each job: '+' created, '=' there already, 'f' full, 'm' no memory; or the 16 bytes of the id of the
-- job that stands in its place (unique or idempotency key).
local now = now_ms()
local limit, count = number(3), at_most(500, 4)
local gated = call('HGET', META, 'gate') == '1'
local held = call('HLEN', JOBS)

-- Reads. A job that is there already is said to be there even by a queue that takes nothing: the producer whose first
-- answer was lost must not be told that nothing was stored.
local members, uniques, keys = {}, {}, {}
for i = 1, count do
  local at = 5 + (i - 1) * 6
  members[i] = ARGV[at]
  if ARGV[at + 3] ~= '' then
    uniques[#uniques + 1] = ARGV[at + 3]
  end
  if ARGV[at + 4] ~= '' then
    keys[#keys + 1] = P .. 'i:' .. ARGV[at + 4]
  end
end
local stands, firsts = {}, {}
if #uniques > 0 then
  local found = call('HMGET', UQ, unpack(uniques))
  for i = 1, #uniques do
    stands[uniques[i]] = found[i]
  end
end
if #keys > 0 then
  local found = call('MGET', unpack(keys))
  for i = 1, #keys do
    firsts[keys[i]] = found[i]
  end
end
local known = count > 0 and call('HMGET', JOBS, unpack(members)) or {}

local codes, taken = {}, {}
local writes, scheduled, unique_writes, key_writes, lanes = {}, {}, {}, {}, {}
local stamp = ms6(now) .. ms6(now)
for i = 1, count do
  local at = 5 + (i - 1) * 6
  local m, part, delay, unique = members[i], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local key = ARGV[at + 4] ~= '' and P .. 'i:' .. ARGV[at + 4]
  if known[i] or taken[m] then
    codes[i] = '='
  elseif key and firsts[key] then
    codes[i] = firsts[key]
  elseif stands[unique] then
    codes[i] = sub(stands[unique], 1, 16)
  elseif gated then
    codes[i] = 'm'
  elseif held >= limit then
    codes[i] = 'f'
  else
    held = held + 1
    taken[m] = true
    codes[i] = '+'
    local due = now
    if byte(delay, 1) == 64 then
      due = tonumber(sub(delay, 2)) or error('a due time is no number')
    elseif delay ~= '0' then
      due = now + (tonumber(delay) or error('a delay is no number'))
    end
    writes[#writes + 1] = m
    if due > now then
      due = math.min(due, FAR)
      writes[#writes + 1] = ms6(now) .. ms6(due) .. part
      scheduled[#scheduled + 1] = due
      scheduled[#scheduled + 1] = m
    else
      writes[#writes + 1] = stamp .. part
      add_to(lanes, sub(part, 5, 4 + byte(part, 3)), m)
    end
    if unique ~= '' then
      stands[unique] = m
      unique_writes[#unique_writes + 1] = unique
      unique_writes[#unique_writes + 1] = m
    end
    if key then
      firsts[key] = sub(m, 1, 16)
      key_writes[#key_writes + 1] = { key, firsts[key], number(at + 5) }
    end
  end
end

if #writes > 0 then
  call('HSET', JOBS, unpack(writes))
end
if #scheduled > 0 then
  call('ZADD', SCHED, unpack(scheduled))
end
if #unique_writes > 0 then
  call('HSET', UQ, unpack(unique_writes))
end
for i = 1, #key_writes do
  call('SET', key_writes[i][1], key_writes[i][2], 'PX', key_writes[i][3])
end
if next(lanes) then
  push_ready(lanes)
  wake()
end
return codes
