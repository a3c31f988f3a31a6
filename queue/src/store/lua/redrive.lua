-- Brings dead fast jobs back as ready, each under a new id. It is an operator's act, so it takes as much room as a new job:
-- refused when the memory gate is closed, or the queue or the tenant is full.
-- ARGV 3 most jobs that the queue may hold, 4 most bytes (0: no cap), 5 most jobs of a tenant (0: no cap), 6 most bytes of a tenant (0: no
--   cap); 7 how many follow (at most 100); then for each its m and its new m.
-- Returns a code for each: '+' redriven, '-' not dead, '?' its record is not readable, 'm' no memory, 'f' the queue is full, 'b' its
--   bytes are, 't' its tenant is; '.' not looked at, because this call has read enough; or the 16 bytes of the id of another job that
--   stands for its unique key. In all but the first case it stays as it is.
-- The new job has no batch (its end was counted when it died), no errors and no attempts behind it.
local now = now_ms()
local max_jobs, max_bytes, tenant_jobs, tenant_bytes = number(3), number(4), number(5), number(6)
local count = at_most(100, 7)
local gated = call('HGET', META, 'gate') == '1'
local held, held_bytes = read_usage(call('HGET', USE, '\0'))
local BUDGET = 8388608

-- The envelope that stands, made of the one that died; nothing if it is not one.
local function revive(record)
  local length = #record >= 4 and struct.unpack('>I4', record) or 0
  if length < 20 or #record < 4 + length then
    return
  end
  local old = sub(record, 5, 4 + length)
  local flags, lane_end = byte(old, 14), 16 + byte(old, 15)
  local keys = has(flags, 2) and 16 or 0
  local lane = sub(old, 17, lane_end)
  if byte(old, 13) ~= 1 or has(flags, 1) or not string.find(lane, '^[0-3]\31[^\31]*\31.') or #old < lane_end + keys + 2 then
    return
  end
  local batch = has(flags, 4) and 16 or 0
  return ms6(now) .. ms6(now) .. sub(old, 13, 13) .. string.char(flags - (batch > 0 and 4 or 0)) .. sub(old, 15, lane_end + keys)
    .. sub(old, lane_end + keys + batch + 1)
end

local codes, taken, done, read = {}, {}, {}, 0
local use, used, lanes, members = {}, {}, {}, {}
for i = 1, count do
  local m, new = ARGV[6 + 2 * i], ARGV[7 + 2 * i]
  local record = read <= BUDGET and not done[m] and call('HGET', DEADREC, m)
  if read > BUDGET then
    codes[i] = '.'
  elseif not record or #new ~= 16 or call('HEXISTS', JOBS, new) == 1 then
    codes[i] = '-'
  else
    read = read + #record
    local envelope = revive(record)
    local lane = envelope and lane_of(envelope)
    local tenant = lane and tenant_of(lane)
    local digest = envelope and unique_of(envelope)
    local is_period = digest and has(byte(envelope, 14), 16)
    local stands = digest and (taken[digest] or is_period and call('GET', P .. 'u:' .. digest) or not is_period and call('HGET', UQ, digest))
    if tenant and tenant ~= '' and not used[tenant] then
      used[tenant] = { read_usage(call('HGET', USE, tenant)) }
    end
    local own = tenant and used[tenant]
    -- A key that holds for a period may still be the dead job's own.
    if stands and sub(stands, 1, 16) == m then
      stands = false
    end
    if not envelope then
      codes[i] = '?'
    elseif stands then
      codes[i] = sub(stands, 1, 16)
    elseif gated then
      codes[i] = 'm'
    elseif held >= max_jobs then
      codes[i] = 'f'
    elseif max_bytes > 0 and held_bytes + #envelope > max_bytes then
      codes[i] = 'b'
    elseif own and (tenant_jobs > 0 and own[1] >= tenant_jobs or tenant_bytes > 0 and own[2] + #envelope > tenant_bytes) then
      codes[i] = 't'
    else
      codes[i], done[m] = '+', true
      held, held_bytes = held + 1, held_bytes + #envelope
      if own then
        own[1], own[2] = own[1] + 1, own[2] + #envelope
      end
      if digest then
        taken[digest] = new
      end
      members[#members + 1] = { m = m, new = new, envelope = envelope, digest = digest, is_period = is_period }
      add_usage(use, tenant, 1, #envelope)
      add_to(lanes, lane, new)
    end
  end
end

for _, job in ipairs(members) do
  call('HDEL', DEADREC, job.m)
  call('ZREM', DEAD, job.m)
  call('HSET', JOBS, job.new, job.envelope)
  if job.is_period then
    -- How long the period was is not known any more: a key that still holds goes on to the new job, one that ran out stays so.
    if call('EXISTS', P .. 'u:' .. job.digest) == 1 then
      call('SET', P .. 'u:' .. job.digest, job.new, 'KEEPTTL')
    end
  elseif job.digest then
    call('HSET', UQ, job.digest, job.new)
  end
end
settle_usage(use)
if #members > 0 then
  if push_ready(lanes) then
    wake()
  end
end
return codes
