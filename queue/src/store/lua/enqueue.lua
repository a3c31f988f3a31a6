-- Puts up to 500 jobs into the queue.
-- ARGV 3 most jobs and 4 most bytes that the queue may hold, 5 and 6 the same for one tenant (0: no cap); 7 how many jobs
--   follow; for each job: m, part (envelope behind the two times), delay_ms or '@' due_ms, unique key or '', idempotency digest
--   or '', idempotency period in ms. Calls in which all jobs are plain try enqueue_plain.lua first.
--   A unique key is digest16, scope1 (q queued, f until final, p period), conflict1 (i ignore, r replace, t reschedule) and for
--   p the period in ms.
-- Returns a code for each job: '+' created, '=' there already, 'f' full, 'b' full in bytes, 't' its tenant has enough,
--   'm' no memory, 'x' its batch takes no more; or the 16 bytes of the id of the job that stands in its place (unique or
--   idempotency key), behind 'R' if that one took over the args, behind 'D' if it took over the time.
local now = now_ms()
local most, most_bytes, tenant_most, tenant_bytes = number(3), number(4), number(5), number(6)
local count = at_most(500, 7)
local FIRST, STRIDE = 8, 6
local gated = call('HGET', META, 'gate') == '1'
local held = call('HLEN', JOBS)
local _, held_bytes = read_usage(call('HGET', USE, '\0'))

-- Reads. A job that is there already is said to be there even by a queue that takes nothing: the producer whose first
-- answer was lost must not be told that nothing was stored.
local members, unique_keys, uniques, keys = {}, {}, {}, {}
for i = 1, count do
  local at = FIRST + (i - 1) * STRIDE
  members[i] = ARGV[at]
  local unique = ARGV[at + 3]
  if unique ~= '' then
    local digest = sub(unique, 1, 16)
    if byte(unique, 17) == 112 then
      unique_keys[i] = P .. 'u:' .. digest
      keys[#keys + 1] = unique_keys[i]
    else
      unique_keys[i] = digest
      uniques[#uniques + 1] = digest
    end
  end
  if ARGV[at + 4] ~= '' then
    keys[#keys + 1] = P .. 'i:' .. ARGV[at + 4]
  end
end
local stands = {}
if #uniques > 0 then
  local found = call('HMGET', UQ, unpack(uniques))
  for i = 1, #uniques do
    stands[uniques[i]] = found[i]
  end
end
if #keys > 0 then
  local found = call('MGET', unpack(keys))
  for i = 1, #keys do
    stands[keys[i]] = found[i]
  end
end
local known = count > 0 and call('HMGET', JOBS, unpack(members)) or {}
-- A job that was cancelled while it was ready still has its entry: it must not come into a lane twice. What is left of it takes
-- about an eighth of the room of a job.
local cancelled = count > 0 and call('HLEN', TOMB) or 0
if cancelled > 0 then
  held = held + floor(cancelled / 8)
  local tombs = call('HMGET', TOMB, unpack(members))
  for i = 1, count do
    known[i] = known[i] or tombs[i]
  end
end

local codes, taken, changed, moved = {}, {}, {}, {}
local writes, muts, scheduled, unscheduled, unique_writes, key_writes, lanes, use = {}, {}, {}, {}, {}, {}, {}, {}
local stamp = ms6(now) .. ms6(now)

local function due_at(delay)
  if byte(delay, 1) == 64 then
    return math.min(tonumber(sub(delay, 2)) or error('a due time is no number'), FAR)
  end
  return math.min(now + (tonumber(delay) or error('a delay is no number')), FAR)
end

-- What a tenant has, with what this call adds.
local tenants = {}
local function tenant_usage(tenant)
  local u = tenants[tenant]
  if not u then
    u = { read_usage(call('HGET', USE, tenant)) }
    tenants[tenant] = u
  end
  return u
end

-- Whether a batch takes members: it was opened, and is not sealed.
local batches, batch_open = {}, {}
local function takes_members(batch)
  if batch_open[batch] == nil then
    local b = call('HMGET', P .. 'b:' .. batch, 'm', 'sealed')
    batch_open[batch] = b[1] ~= false and b[2] ~= '1'
  end
  return batch_open[batch]
end

-- A job with the same unique key stands, and takes over what the new one says if it still waits. Members of batches do not
-- change, and neither does what was enqueued in this very call.
local function conflict(i, part, delay, unique)
  local stands_for = stands[unique_keys[i]]
  local m, policy = sub(stands_for, 1, 16), byte(unique, 18)
  if policy == 105 or #stands_for > 16 or taken[m] then
    return m
  end
  local old = changed[m] or call('HGET', JOBS, m)
  if not old or has(byte(old, 14), 4) or has(byte(part, 2), 4) then
    return m
  end
  local due = call('ZSCORE', SCHED, m)
  if policy == 114 then
    -- Under a key of a period it may run: only its time says that it waits.
    if not due and (byte(unique, 17) == 112 or call('ZSCORE', PARKED, m)) then
      return m
    end
    -- It keeps its lane: it may stand in it.
    local lane = lane_of(old)
    changed[m] = sub(old, 1, 12) .. sub(part, 1, 2) .. string.char(#lane) .. sub(part, 4, 4) .. lane
      .. sub(part, 5 + byte(part, 3))
    local more = #changed[m] - #old
    add_usage(use, tenant_of(lane), 0, more)
    held_bytes = held_bytes + more
    if tenant_bytes > 0 then
      local u = tenant_usage(tenant_of(lane))
      u[2] = u[2] + more
    end
    return 'R' .. m
  end
  if not due or moved[m] then
    return m
  end
  moved[m] = true
  local at = due_at(delay)
  changed[m] = sub(old, 1, 6) .. ms6(math.max(at, now)) .. sub(old, 13)
  local mut = call('HGET', MUT, m)
  if mut then
    -- One that ran before counts its wait from there.
    muts[#muts + 1], muts[#muts + 2] = m, sub(mut, 1, 5) .. ms6(math.max(at, now)) .. sub(mut, 12)
  end
  if at > now then
    scheduled[#scheduled + 1], scheduled[#scheduled + 2] = at, m
  else
    unscheduled[#unscheduled + 1] = m
    add_to(lanes, lane_of(old), m)
  end
  return 'D' .. m
end

-- Whether a new job fits, as its code; one that does has its room.
local function admit_job(u, size)
  if gated then
    return 'm'
  elseif held >= most then
    return 'f'
  elseif most_bytes > 0 and held_bytes + size > most_bytes then
    return 'b'
  elseif u and ((tenant_most > 0 and u[1] >= tenant_most) or (tenant_bytes > 0 and u[2] + size > tenant_bytes)) then
    return 't'
  end
  held, held_bytes = held + 1, held_bytes + size
  if u then
    u[1], u[2] = u[1] + 1, u[2] + size
  end
  return '+'
end

for i = 1, count do
  local at = FIRST + (i - 1) * STRIDE
  local m, part, delay, unique = members[i], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local key = ARGV[at + 4] ~= '' and P .. 'i:' .. ARGV[at + 4]
  local lane = sub(part, 5, 4 + byte(part, 3))
  local tenant, size = tenant_of(lane), #part + 12
  local flags, batch = byte(part, 2), nil
  if has(flags, 4) then
    batch = batch_of(stamp .. part)
  end
  -- Jobs of nobody are bounded by the queue's caps only.
  local u = (tenant_most > 0 or tenant_bytes > 0) and tenant ~= '' and tenant_usage(tenant)
  if known[i] or taken[m] then
    codes[i] = '='
  elseif key and stands[key] then
    codes[i] = stands[key]
  elseif unique_keys[i] and stands[unique_keys[i]] then
    codes[i] = conflict(i, part, delay, unique)
  elseif batch and not takes_members(batch) then
    codes[i] = 'x'
  else
    codes[i] = admit_job(u, size)
  end
  if codes[i] == '+' then
    add_usage(use, tenant, 1, size)
    taken[m] = true
    local due = delay == '0' and now or due_at(delay)
    writes[#writes + 1] = m
    if due > now then
      writes[#writes + 1] = ms6(now) .. ms6(due) .. part
      scheduled[#scheduled + 1] = due
      scheduled[#scheduled + 1] = m
    else
      writes[#writes + 1] = stamp .. part
      add_to(lanes, lane, m)
    end
    if unique ~= '' then
      stands[unique_keys[i]] = m
      if #unique_keys[i] == 16 then
        unique_writes[#unique_writes + 1] = unique_keys[i]
        unique_writes[#unique_writes + 1] = m
      else
        key_writes[#key_writes + 1] = { unique_keys[i], m, tonumber(sub(unique, 19)) or error('a period is no number') }
      end
    end
    if key then
      stands[key] = sub(m, 1, 16)
      key_writes[#key_writes + 1] = { key, stands[key], number(at + 5) }
    end
    if batch then
      batches[batch] = (batches[batch] or 0) + 1
    end
  end
end

for m, envelope in pairs(changed) do
  writes[#writes + 1], writes[#writes + 2] = m, envelope
end
if #writes > 0 then
  call('HSET', JOBS, unpack(writes))
end
if #muts > 0 then
  call('HSET', MUT, unpack(muts))
end
if #unscheduled > 0 then
  call('ZREM', SCHED, unpack(unscheduled))
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
for batch, members_more in pairs(batches) do
  call('HINCRBY', P .. 'b:' .. batch, 'n', members_more)
end
settle_usage(use)
if next(lanes) then
  if push_ready(lanes) then
    wake()
  end
end
return codes
