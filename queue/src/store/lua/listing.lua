-- What the scripts share that list jobs. Each call looks at a bounded number of them, and reads at most 4 MiB of envelopes and
-- one more; where it stopped is part of the answer.
local BUDGET = 4194304

-- Whether a lane is of this kind and tenant; '' is any, and a tenant has '=' in front. What is not readable is shown to
-- whoever asks: it would be seen by nobody else.
local function is_wanted(lane, kind, tenant)
  local at = string.find(lane, US, 3, true)
  if not at then
    return true
  end
  return (kind == '' or sub(lane, at + 1) == kind) and (tenant == '' or sub(lane, 3, at - 1) == sub(tenant, 2))
end

-- The part of an envelope that says what a job is, without its args.
local function head_of(envelope)
  return sub(envelope, 1, 48 + (byte(envelope, 15) or 0))
end

-- Why jobs of a lane are not claimed now: 'p' (paused), 'c' (as many run as may) or 'r' (as many started as may), and the id
-- of the limit; '' if nothing holds them back.
local function held_by(lane, now)
  local ids = ids_of(lane)
  if call('HGET', META, 'paused') == '1' then
    return 'pq'
  end
  if call('EXISTS', LIM) == 0 then
    return ''
  end
  local specs = specs_of(ids)
  for i = 1, #ids do
    local spec = specs[i]
    if spec then
      if spec.paused then
        return 'p' .. ids[i]
      elseif spec.concurrency ~= NONE and call('HLEN', P .. 'c:' .. ids[i]) >= spec.concurrency then
        return 'c' .. ids[i]
      elseif spec.interval > 0 and allowance(ids[i], spec, now) == 0 then
        return 'r' .. ids[i]
      end
    end
  end
  return ''
end
