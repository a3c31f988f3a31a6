-- Puts up to 500 plain jobs into the queue: ready at once, with no key and no batch, which nearly all jobs are. All of them or
-- none: whatever needs a look at the single job (one that is there already, a cap that is reached, a clock that jumped) is for
-- enqueue.lua, which is asked then. So nothing here is done per job that the producer can do before; it is in no need of
-- the prelude either, which has the formats.
-- KEYS jobs, use, act, meta, wake, tomb, tl, never.
-- ARGV 1 prefix, 2 clock, as for all scripts; 3 most jobs and 4 most bytes that the queue may hold, 5 and 6 the same for one
--   tenant (0: no cap); 7 the time in the envelopes, in ms; 8 how many tenants, 9 lanes and 10 jobs follow: the names in `use`,
--   that of the whole queue first; for each how many jobs and how many bytes; the lanes; how many jobs each; then for each job,
--   lane by lane: m, envelope
-- Returns the time, in ms; below zero if nothing was done.
local JOBS, USE, ACT, META, WAKE, TOMB, TL = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local P, call, floor = ARGV[1], redis.call, math.floor
local most, most_bytes, tenant_most, tenant_bytes = ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0, ARGV[6] + 0
local tenants, lanes, count = ARGV[8] + 0, ARGV[9] + 0, ARGV[10] + 0
local NAMES = 11
local WEIGHTS = NAMES + 1 + tenants
local LANES = WEIGHTS + 2 * (1 + tenants)
local SHARES = LANES + lanes
local PAIRS = SHARES + lanes
if count < 1 or count > 500 or #ARGV ~= PAIRS + 2 * count - 1 then
  error('the counts do not fit the arguments')
end

local now
if ARGV[2] ~= '' then
  now = tonumber(call('GET', ARGV[2]))
else
  local t = call('TIME')
  now = t[1] * 1000 + floor(t[2] / 1000)
end
-- The producer reckons from the last answer that it had, so it is never ahead, and behind by the way of that answer.
local behind = now - ARGV[7]
local meta, held = call('HMGET', META, 'gate', 'paused'), call('HLEN', JOBS)
local cancelled = call('HLEN', TOMB)
if behind < 0 or behind > 1000 or meta[1] == '1' or held + floor(cancelled / 8) + count > most then
  return -now
end
local members = {}
for i = 1, count do
  members[i] = ARGV[PAIRS + 2 * i - 2]
end
local known = call('HMGET', JOBS, unpack(members))
local tombs = cancelled > 0 and call('HMGET', TOMB, unpack(members)) or known
for i = 1, count do
  if known[i] or tombs[i] then
    return -now
  end
end
local had, use = call('HMGET', USE, unpack(ARGV, NAMES, WEIGHTS - 1)), {}
for i = 1, 1 + tenants do
  local name, jobs, bytes = ARGV[NAMES + i - 1], ARGV[WEIGHTS + 2 * i - 2] + 0, ARGV[WEIGHTS + 2 * i - 1] + 0
  if had[i] then
    local more_jobs, more_bytes = struct.unpack('>I4I6', had[i])
    jobs, bytes = jobs + more_jobs, bytes + more_bytes
  end
  local packed = struct.pack('>I4I6', jobs, bytes)
  if i == 1 then
    if most_bytes > 0 and bytes > most_bytes then
      return -now
    end
    packed = packed .. string.rep('.', 55)
  elseif name ~= '' and ((tenant_most > 0 and jobs > tenant_most) or (tenant_bytes > 0 and bytes > tenant_bytes)) then
    return -now
  end
  use[2 * i - 1], use[2 * i] = name, packed
end
local shares, named = {}, 0
for i = 1, lanes do
  shares[i] = ARGV[SHARES + i - 1] + 0
  named = named + shares[i]
end
if named ~= count then
  error('the lanes have other jobs than there are')
end

local active = call('HMGET', ACT, unpack(ARGV, LANES, SHARES - 1))
if call('HSET', JOBS, unpack(ARGV, PAIRS)) < count then
  error('a job came twice in one call')
end
call('HSET', USE, unpack(use))
local wakes, from = false, 1
for i = 1, lanes do
  local lane, state = ARGV[LANES + i - 1], active[i]
  call('RPUSH', P .. 'l:' .. lane, unpack(members, from, from + shares[i] - 1))
  from = from + shares[i]
  -- A lane that waits for a limit stays where it is, and wakes nobody.
  wakes = wakes or state ~= '-1'
  if not state then
    call('HSET', ACT, lane, '0' .. string.rep(' ', 64))
    call('RPUSH', P .. 'ring:' .. string.sub(lane, 1, 1), lane)
    call('HINCRBY', TL, string.sub(lane, 3, string.find(lane, '\31', 3, true) - 1), 1)
  end
end
if wakes and meta[2] ~= '1' and call('LLEN', WAKE) == 0 then
  call('LPUSH', WAKE, '1')
end
return now
