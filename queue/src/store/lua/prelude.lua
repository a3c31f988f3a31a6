-- What all scripts share: the names of a queue's keys, time, and the few steps that several scripts take.
--
-- KEYS 1..30 are the fixed keys of the queue, in this order; a script of a session has its two keys behind them. The last of
-- them never exists: while a slot of a Redis Cluster is migrated, a script that names a missing key is refused before it starts,
-- so that none can abort midway with half of its writes done.
-- ARGV 1 is the queue's prefix, under which lanes and other sessions' keys are found (they are in the same slot, and
-- cannot be known before the script reads). ARGV 2 is empty, or in tests the key of a manual clock in milliseconds.
--
-- Formats (integers are big-endian):
--   member    id16, or id16 generation4 when journaled
--   lane      band1 \x1f tenant \x1f kind
--   jobs[m]   enqueued_ms6 ready_ms6 | version1 flags1 lane_length1 rescue1 lane [unique16] [batch16] rest
--             rescue1: the job's rescue limit and 1, or 0 if it has none of its own
--   mut[m]    attempt4 rescues1 ready_ms6 [extras1]    only for jobs that ran before
--             extras: 1 a checkpoint stands, 2 it was parked
--   run[m]    claim_no8 claimed_ms6 flags1 lane_length1 size4 lane, and dots up to 65 bytes: beyond 64 Redis keeps a hash as
--             a table; in the compact form of small hashes each look-up would walk all entries. size: bytes of jobs[m]
--   flags     1 journaled, 2 unique key, 4 member of a batch, 8 unique while it is queued only, 16 unique for a period,
--             64 at most once, 128 (run only) claimed from the suspect lane
--   uq[key]   m, and 'r' while it runs                  keys of a period are apart: u:<digest>
--   use[t]    count4 bytes6 of the standing jobs of a tenant; '' is no tenant, \0 the whole queue (with dots up to 65 bytes)
--   lim[s]    flags1 concurrency4 interval_us6 burst4    flags: 1 paused; no concurrency: ffffffff, no rate: interval 0
--   cb[m]     state1 digest16 payload    state: w waits, p its answer came, s and was read, t nobody called in time
--   fin       letter1 finished_ms6 claimed_ms6 m_length1 m lane
local META, JOBS, MUT, ERR, ACT, SCHED, SESS, UQ = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local DEAD, DEADREC, TOBURY, SUSPECT, WAKE = KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local USE, LIM, TAT, DUE, CANCEL, PARKED, TOK, CB = KEYS[18], KEYS[19], KEYS[20], KEYS[21], KEYS[22], KEYS[23], KEYS[24], KEYS[25]
local CKPT, PROG, TL, FIN = KEYS[26], KEYS[27], KEYS[28], KEYS[29]
local P, LANE = ARGV[1], ARGV[1] .. 'l:'
-- Ready jobs that were cancelled: their entries stand in their lanes until a claim passes over them.
local TOMB = P .. 'tomb'
local call = redis.call
local byte, sub, floor = string.byte, string.sub, math.floor

-- The only clock. A manual one is for tests.
local function now_ms()
  if ARGV[2] ~= '' then
    return tonumber(call('GET', ARGV[2]))
  end
  local t = call('TIME')
  return t[1] * 1000 + floor(t[2] / 1000)
end

-- Six bytes end in the year 10889; what lies beyond the year 9999 is as good as never.
local FAR = 253402300799999

local function ms6(ms)
  return struct.pack('>I6', ms)
end

-- The number at ARGV i. Every script reads its arguments before it writes: an error behind a write would leave half of it.
local function number(i)
  return tonumber(ARGV[i]) or error('argument ' .. i .. ' is no number')
end

local function at_most(most, i)
  local n = number(i)
  if n < 0 or n > most then
    error('argument ' .. i .. ' is above ' .. most)
  end
  return n
end

local function read6(s, at)
  return struct.unpack('>I6', s, at)
end

local function has(flags, bit)
  return flags % (2 * bit) >= bit
end

local function lane_of(envelope)
  return sub(envelope, 17, 16 + byte(envelope, 15))
end

local function tenant_of(lane)
  return sub(lane, 3, string.find(lane, '\31', 3, true) - 1)
end

local function ring_of(lane)
  return KEYS[14 + byte(lane, 1) - 48]
end

-- Wakes one waiting worker; it wakes the next if there is more than it can take. Nobody is woken for a paused queue.
local function wake()
  if call('LLEN', WAKE) == 0 and call('HGET', META, 'paused') ~= '1' then
    call('LPUSH', WAKE, '1')
  end
end

-- Adds to the numbers of lanes that tenants have: a tenant's share is divided by it.
local function count_lanes(by_tenant)
  local tenants = {}
  for tenant in pairs(by_tenant) do
    tenants[#tenants + 1] = tenant
  end
  for from = 1, #tenants, 500 do
    local part = {}
    for i = from, math.min(from + 499, #tenants) do
      part[#part + 1] = tenants[i]
    end
    local had, writes, gone = call('HMGET', TL, unpack(part)), {}, {}
    for i = 1, #part do
      local lanes = tonumber(had[i] or 0) + by_tenant[part[i]]
      if lanes > 0 then
        writes[#writes + 1], writes[#writes + 2] = part[i], lanes
      else
        gone[#gone + 1] = part[i]
      end
    end
    if #writes > 0 then
      call('HSET', TL, unpack(writes))
    end
    if #gone > 0 then
      call('HDEL', TL, unpack(gone))
    end
  end
end

-- Puts lanes that have members into the rings of their bands, each once. One that waits for a limit stands in `act` too, as
-- WAITS, and stays where it is. Returns whether any of them is in a ring: for the others nobody need wake.
local WAITS = '-1'
-- Nothing is left of its turn. Spaces beyond 64 bytes make the hash a table from the first entry on, as with `run`.
local NOTHING_LEFT = '0' .. string.rep(' ', 64)

local function activate(lanes)
  local known, rings, writes, tenants = call('HMGET', ACT, unpack(lanes)), {}, {}, {}
  local in_ring = false
  for i = 1, #lanes do
    in_ring = in_ring or known[i] ~= WAITS
    if not known[i] then
      local lane = lanes[i]
      local ring = ring_of(lane)
      rings[ring] = rings[ring] or {}
      table.insert(rings[ring], lane)
      writes[#writes + 1], writes[#writes + 2] = lane, NOTHING_LEFT
      local tenant = tenant_of(lane)
      tenants[tenant] = (tenants[tenant] or 0) + 1
    end
  end
  if #writes > 0 then
    call('HSET', ACT, unpack(writes))
    for ring, of_ring in pairs(rings) do
      call('RPUSH', ring, unpack(of_ring))
    end
    count_lanes(tenants)
  end
  return in_ring
end

-- Puts members into lanes, at most 1000 in all; `lanes` is lane -> list of members. Returns whether a claim could have any.
local function push(command, lanes)
  local names = {}
  for lane, members in pairs(lanes) do
    call(command, LANE .. lane, unpack(members))
    names[#names + 1] = lane
  end
  return #names > 0 and activate(names)
end

-- Appends members to lanes.
local function push_ready(lanes)
  return push('RPUSH', lanes)
end

-- Puts members before the others of their lanes, in the order of the lists.
local function push_back(lanes)
  for _, members in pairs(lanes) do
    for i = 1, floor(#members / 2) do
      members[i], members[#members + 1 - i] = members[#members + 1 - i], members[i]
    end
  end
  return push('LPUSH', lanes)
end

local function add_to(lanes, lane, m)
  local members = lanes[lane]
  if members then
    members[#members + 1] = m
  else
    lanes[lane] = { m }
  end
end

-- The digest of a job's unique key, if it has one, and its batch.
local function unique_of(envelope)
  if has(byte(envelope, 14), 2) then
    local at = 17 + byte(envelope, 15)
    return sub(envelope, at, at + 15)
  end
end

local function batch_of(envelope)
  local flags = byte(envelope, 14)
  if has(flags, 4) then
    local at = 17 + byte(envelope, 15) + (has(flags, 2) and 16 or 0)
    return sub(envelope, at, at + 15)
  end
end

-- Forgets a unique key, if it still stands for this job. One that holds for a period stays.
local function free_unique(m, envelope)
  local digest = envelope and not has(byte(envelope, 14), 16) and unique_of(envelope)
  if digest then
    local stands = call('HGET', UQ, digest)
    if stands == m or stands == m .. 'r' then
      call('HDEL', UQ, digest)
    end
  end
end

-- What standing jobs weigh, by tenant. `add` collects, `settle_usage` writes: two calls for any number of tenants.
local function add_usage(use, tenant, count, bytes)
  local u = use[tenant]
  if u then
    u[1], u[2] = u[1] + count, u[2] + bytes
  else
    use[tenant] = { count, bytes }
  end
end

local function read_usage(packed)
  if packed then
    return struct.unpack('>I4I6', packed)
  end
  return 0, 0
end

local function settle_usage(use)
  local tenants, count, bytes = {}, 0, 0
  for tenant, u in pairs(use) do
    tenants[#tenants + 1] = tenant
    count, bytes = count + u[1], bytes + u[2]
  end
  if #tenants == 0 then
    return
  end
  tenants[#tenants + 1] = '\0'
  use['\0'] = { count, bytes }
  -- At most 1000 jobs have at most 1000 tenants.
  local had, writes, gone = call('HMGET', USE, unpack(tenants)), {}, {}
  for i = 1, #tenants do
    local c, b = read_usage(had[i])
    c, b = c + use[tenants[i]][1], b + use[tenants[i]][2]
    if c > 0 then
      local packed = struct.pack('>I4I6', c, math.max(b, 0))
      -- The queue's own entry is long, so that the hash is a table: see `run` above.
      writes[#writes + 1], writes[#writes + 2] = tenants[i], tenants[i] == '\0' and packed .. string.rep('.', 55) or packed
    else
      gone[#gone + 1] = tenants[i]
    end
  end
  if #writes > 0 then
    call('HSET', USE, unpack(writes))
  end
  if #gone > 0 then
    call('HDEL', USE, unpack(gone))
  end
end

-- The same for one job that no longer stands.
local function release_usage(use, envelope)
  add_usage(use, tenant_of(lane_of(envelope)), -1, -#envelope)
end

-- Forgets the tokens on which jobs were to be called back.
local function forget_callbacks(members)
  local waits, tokens = call('HMGET', CB, unpack(members)), {}
  for i = 1, #members do
    if waits[i] then
      tokens[#tokens + 1] = sub(waits[i], 2, 17)
    end
  end
  if #tokens > 0 then
    call('HDEL', TOK, unpack(tokens))
  end
end

-- What stands of a job beside its envelope. Nearly all jobs have none of it.
local BESIDE = { MUT, ERR, CKPT, PROG, CANCEL, CB }

-- Forgets jobs that are over. A handful of calls for any number of jobs; unpack is bounded by the callers' batch.
local function forget(members)
  if #members == 0 then
    return
  end
  call('HDEL', JOBS, unpack(members))
  if call('EXISTS', unpack(BESIDE)) == 0 then
    return
  end
  if call('EXISTS', CB) == 1 then
    forget_callbacks(members)
  end
  for i = 1, #BESIDE do
    if call('EXISTS', BESIDE[i]) == 1 then
      call('HDEL', BESIDE[i], unpack(members))
    end
  end
end

-- Counts a final member of a batch: c completed, d dead, x cancelled.
local function tally(batches, envelope, what)
  local batch = envelope and batch_of(envelope)
  if batch then
    local b = batches[batch]
    if not b then
      b = { c = 0, d = 0, x = 0 }
      batches[batch] = b
    end
    b[what] = b[what] + 1
  end
end

-- Makes the follow-up of a batch ready, once, when it is sealed and all its members are final.
local function fire(batch, now)
  local key = P .. 'b:' .. batch
  local b = call('HMGET', key, 'n', 'c', 'd', 'x', 'sealed', 'm', 'part', 'fired')
  local n, final = tonumber(b[1] or 0), tonumber(b[2] or 0) + tonumber(b[3] or 0) + tonumber(b[4] or 0)
  if b[5] ~= '1' or b[8] or final < n then
    return false
  end
  local m, envelope = b[6], ms6(now) .. ms6(now) .. b[7]
  call('HSET', key, 'fired', now)
  call('PEXPIRE', key, 604800000)
  if call('HSETNX', JOBS, m, envelope) == 1 then
    local lane = lane_of(envelope)
    local use = {}
    add_usage(use, tenant_of(lane), 1, #envelope)
    settle_usage(use)
    if push_ready({ [lane] = { m } }) then
      wake()
    end
  end
  return true
end

local function settle_batches(batches, now)
  for batch, b in pairs(batches) do
    local key = P .. 'b:' .. batch
    -- Expired, or never opened: there is nothing to follow.
    if call('EXISTS', key) == 1 then
      for what, count in pairs(b) do
        if count > 0 then
          call('HINCRBY', key, what, count)
        end
      end
      fire(batch, now)
    end
  end
end

local function text(s)
  s = s or ''
  return struct.pack('>I4', #s) .. s
end

-- Moves a fast job among the dead: envelope, mut, errors and the reason, each with its length. The oldest beyond `cap` go.
local function bury(m, now, reason, cap)
  local envelope = call('HGET', JOBS, m)
  if not envelope then
    return
  end
  local record = text(envelope) .. text(call('HGET', MUT, m) or '') .. text(call('HGET', ERR, m) or '') .. text(reason)
  free_unique(m, envelope)
  local use, batches = {}, {}
  release_usage(use, envelope)
  settle_usage(use)
  forget({ m })
  call('HSET', DEADREC, m, record)
  call('ZADD', DEAD, now, m)
  local over = call('ZCARD', DEAD) - cap
  if over > 0 then
    local gone = call('ZPOPMIN', DEAD, math.min(over, 16))
    for i = 1, #gone, 2 do
      call('HDEL', DEADREC, gone[i])
    end
    call('HINCRBY', META, 'dead_trimmed', #gone / 2)
  end
  tally(batches, envelope, 'd')
  settle_batches(batches, now)
end

-- The attempts' errors, one JSON object a line, the last ten.
local function note_error(m, line)
  local lines = call('HGET', ERR, m)
  if lines then
    lines = lines .. '\n' .. line
    local _, breaks = string.gsub(lines, '\n', '\n')
    if breaks >= 10 then
      lines = sub(lines, string.find(lines, '\n', 1, true) + 1)
    end
  else
    lines = line
  end
  call('HSET', ERR, m, lines)
end

-- Limits. A lane counts to at most four ids: its queue, kind, tenant, and kind and tenant. An id is limited by the spec of its
-- own scope, or by that of each tenant.
local US = '\31'

local function ids_of(lane)
  local at = string.find(lane, US, 3, true)
  local tenant, kind = sub(lane, 3, at - 1), sub(lane, at + 1)
  if tenant == '' then
    return { 'q', 'k' .. US .. kind }
  end
  return { 'q', 'k' .. US .. kind, 't' .. US .. tenant, 'b' .. US .. kind .. US .. tenant }
end

-- The scope that holds for each tenant without one of its own.
local function each_tenant(id)
  local first = byte(id, 1)
  if first == 116 then
    return 't' .. US .. '*'
  elseif first == 98 then
    return 'b' .. US .. sub(id, 3, string.find(id, US, 3, true)) .. '*'
  end
end

local NONE = 4294967295

-- The specs of ids, read together: { paused, concurrency, interval in us, burst } or false.
local function specs_of(ids)
  local scopes, of = {}, {}
  for i = 1, #ids do
    local each = each_tenant(ids[i])
    scopes[#scopes + 1] = ids[i]
    scopes[#scopes + 1] = each or ids[i]
  end
  local found = call('HMGET', LIM, unpack(scopes))
  for i = 1, #ids do
    local packed = found[2 * i - 1] or found[2 * i]
    if packed then
      local flags, concurrency, interval, burst = struct.unpack('>I1I4I6I4', packed)
      of[i] = { paused = has(flags, 1), concurrency = concurrency, interval = interval, burst = burst }
    else
      of[i] = false
    end
  end
  return of
end

-- Generic cell rate algorithm (ATM Forum, Traffic Management 4.0): how many may go now, the arrival time, and whether that is
-- not the stored one: a clock that stepped back, or a limit that changed, must not lock it, so the arrival time is never further
-- ahead than a full burst. Whoever finds that writes it down, or it would be as far ahead of each later time.
local function allowance(id, spec, now)
  local now_us, tolerance = now * 1000, (spec.burst - 1) * spec.interval
  local stored, furthest = tonumber(call('HGET', TAT, id) or 0), now_us + tolerance + spec.interval
  local tat = math.max(math.min(stored, furthest), now_us)
  local free = floor((now_us + tolerance - tat) / spec.interval) + 1
  return math.max(free, 0), tat, stored > furthest
end

-- Looks again, at the latest, at lanes that wait: each finished job lets one in at once, and rates know their time.
local LOOK_AGAIN = 30000

-- When lanes that wait for this id are looked at again; `tat` is read fresh.
local function look_again(id, spec, now)
  if spec and not spec.paused and spec.interval > 0 then
    local free, tat = allowance(id, spec, now)
    if free == 0 then
      return math.min(math.ceil((tat - (spec.burst - 1) * spec.interval) / 1000), now + LOOK_AGAIN)
    end
  end
  return now + LOOK_AGAIN
end

-- Lets lanes that wait for an id back into their rings: as many as have a slot, at most 256. Returns how many it let in.
local function admit(id, count)
  local lanes = call('LPOP', P .. 'w:' .. id, math.min(count, 256))
  if not lanes then
    call('ZREM', DUE, id)
    return 0
  end
  local rings, acts = {}, {}
  for i = 1, #lanes do
    add_to(rings, ring_of(lanes[i]), lanes[i])
    acts[#acts + 1], acts[#acts + 2] = lanes[i], '0'
  end
  call('HSET', ACT, unpack(acts))
  for ring, of_ring in pairs(rings) do
    call('RPUSH', ring, unpack(of_ring))
  end
  if call('EXISTS', P .. 'w:' .. id) == 0 then
    call('ZREM', DUE, id)
  end
  return #lanes
end

-- Remembers that a job no longer runs, for the limits to which it counted.
local function stop_counting(freed, lane, m)
  local members = freed[lane]
  if members then
    members[#members + 1] = m
  else
    freed[lane] = { m }
  end
end

-- Takes jobs that no longer run off their limits, and lets as many waiting lanes in. `freed` is lane -> members.
-- Returns whether any lane came in, or may have room now.
local function settle_limits(freed)
  if not next(freed) or call('HGET', META, 'limited') ~= '1' then
    return false
  end
  local by_id, admitted = {}, 0
  for lane, members in pairs(freed) do
    for _, id in ipairs(ids_of(lane)) do
      by_id[id] = by_id[id] or {}
      for i = 1, #members do
        table.insert(by_id[id], members[i])
      end
    end
  end
  for id, members in pairs(by_id) do
    if call('HDEL', P .. 'c:' .. id, unpack(members)) > 0 then
      if id == 'q' then
        -- The queue's own limit holds back no lane: whatever stands in the rings may come.
        admitted = admitted + 1
      elseif call('ZSCORE', DUE, id) then
        admitted = admitted + admit(id, #members)
      end
    end
  end
  return admitted > 0
end
