-- What all scripts share: the names of a queue's keys, time, and the few steps that several scripts take.
--
-- KEYS 1..17 are the fixed keys of the queue, in this order; a script of a session has its two keys behind them.
-- ARGV 1 is the queue's prefix, under which lanes and other sessions' keys are found (they are in the same slot, and
-- cannot be known before the script reads). ARGV 2 is empty, or in tests the key of a manual clock in milliseconds.
--
-- Formats (integers are big-endian):
--   member    id16, or id16 generation4 when journaled
--   lane      band1 \x1f tenant \x1f kind
--   jobs[m]   enqueued_ms6 ready_ms6 | version1 flags1 lane_length1 reserved1 lane [unique16] rest
--   mut[m]    attempt4 rescues1 ready_ms6          only for jobs that ran before
--   run[m]    claim_no8 claimed_ms6 flags1 lane_length1 lane, and dots up to 65 bytes: beyond 64 Redis keeps a hash as a
--             table; in the compact form of small hashes each look-up would walk all entries
--   flags     1 journaled, 2 unique key, 128 (run only) claimed from the suspect lane
local META, JOBS, MUT, ERR, ACT, SCHED, SESS, UQ = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local DEAD, DEADREC, TOBURY, SUSPECT, WAKE = KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local P, LANE = ARGV[1], ARGV[1] .. 'l:'
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

local function lane_of(envelope)
  return sub(envelope, 17, 16 + byte(envelope, 15))
end

local function ring_of(lane)
  return KEYS[14 + byte(lane, 1) - 48]
end

-- Puts a lane that has members into the ring of its band, once.
local function activate(lane)
  if call('HSETNX', ACT, lane, 0) == 1 then
    call('RPUSH', ring_of(lane), lane)
  end
end

-- Wakes one waiting worker; it wakes the next if there is more than it can take.
local function wake()
  if call('LLEN', WAKE) == 0 then
    call('LPUSH', WAKE, '1')
  end
end

-- Appends members to lanes; `lanes` is lane -> list of members.
local function push_ready(lanes)
  for lane, members in pairs(lanes) do
    call('RPUSH', LANE .. lane, unpack(members))
    activate(lane)
  end
end

-- Puts members before the others of their lanes, in the order of the lists.
local function push_back(lanes)
  for lane, members in pairs(lanes) do
    local reversed = {}
    for i = #members, 1, -1 do
      reversed[#reversed + 1] = members[i]
    end
    call('LPUSH', LANE .. lane, unpack(reversed))
    activate(lane)
  end
end

local function add_to(lanes, lane, m)
  local members = lanes[lane]
  if members then
    members[#members + 1] = m
  else
    lanes[lane] = { m }
  end
end

-- The digest of a job's unique key, if it has one.
local function unique_of(envelope)
  if byte(envelope, 14) % 4 >= 2 then
    local at = 17 + byte(envelope, 15)
    return sub(envelope, at, at + 15)
  end
end

-- Forgets a unique key, if it still stands for this job.
local function free_unique(m, envelope)
  local digest = envelope and unique_of(envelope)
  if digest and call('HGET', UQ, digest) == m then
    call('HDEL', UQ, digest)
  end
end

-- Forgets jobs that are over. A handful of calls for any number of jobs; unpack is bounded by the callers' batch.
local function forget(members)
  if #members == 0 then
    return
  end
  call('HDEL', JOBS, unpack(members))
  if call('EXISTS', MUT) == 1 then
    call('HDEL', MUT, unpack(members))
  end
  if call('EXISTS', ERR) == 1 then
    call('HDEL', ERR, unpack(members))
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
