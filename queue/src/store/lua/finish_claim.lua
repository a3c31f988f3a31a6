-- Finishes what a session ran and claims what fits, in one round trip.
-- KEYS 18 s:<sid>, 19 run:<sid>. ARGV 3 sid, 4 n, 5 prev_n, 6 claim_no8 (n again, as 8 bytes), 7 want, 8 want_bytes,
--   9 quantum (jobs that a lane gives before the next has its turn), 10 1 if journaled jobs may be claimed,
--   11 cap of dead jobs, 12 number of outcomes (at most 500); then the outcomes as session.lua reads them.
-- Returns { status, now, codes, more, { m, envelope, ... }, { mut or false, ... } }
--   status OK, GONE (the session is doomed), STALE (a newer request was served), ROLLBACK (Redis lost this session's last)
local now = now_ms()
local sid, n, prev_n, claim_no = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local want, want_bytes, quantum = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local journaled_ok, dead_cap = ARGV[10] == '1', tonumber(ARGV[11])
local asked = want
local session = call('HMGET', S, 'n', 'suspect')
if not session[1] then
  return { 'GONE', now }
end
local stored = tonumber(session[1])
if n <= stored then
  return { 'STALE', now }
end
if stored < prev_n then
  return { 'ROLLBACK', now }
end

local items, members = read_outcomes(13, tonumber(ARGV[12]))
local entries = #members > 0 and call('HMGET', RUN, unpack(members)) or {}

-- Reads: which lanes give which jobs. Nothing is written before all of it is read.
local rings, open = {}, {}
if want > 0 then
  for band = 0, 3 do
    local length = call('LLEN', KEYS[14 + band])
    rings[band] = length
    if length > 0 then
      open[#open + 1] = band
    end
  end
end

local claimed, envelopes, run_values, visits, bytes, skipped = {}, {}, {}, {}, 0, 0
local fresh = claim_no .. ms6(now)

local function keep(m, envelope, lane, mark)
  local flags = byte(envelope, 14) + mark
  claimed[#claimed + 1] = m
  envelopes[#envelopes + 1] = envelope
  run_values[#run_values + 1] = fresh .. string.char(flags) .. lane
  bytes = bytes + #envelope
end

-- A job that was rescued twice runs alone among its kind: at most one in each session, so that only a crash of that one
-- counts against it.
local suspect
if want > 0 and not session[2] then
  suspect = call('LINDEX', SUSPECT, 0)
  if suspect then
    local envelope = call('HGET', JOBS, suspect)
    if not envelope then
      skipped = skipped + 1
    elseif journaled_ok or #suspect == 16 then
      keep(suspect, envelope, lane_of(envelope), 128)
      want = want - 1
    else
      suspect = nil
    end
  end
end

-- 8:4:2:1, dealt over 15 turns; the turn is remembered, so that claims of one job are dealt as fairly as large ones.
local TURNS = { 0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0 }
local share = {}
if #open == 1 then
  share[open[1]] = want
elseif #open > 1 then
  local turn = tonumber(call('HGET', META, 'turn') or 0)
  local dealt = 0
  while dealt < want do
    local band = TURNS[turn % 15 + 1]
    turn = turn + 1
    if rings[band] > 0 then
      share[band] = (share[band] or 0) + 1
      dealt = dealt + 1
    end
  end
  share.turn = turn % 15
end

local full = false
local function visit(band, wanted)
  local lanes = call('LRANGE', KEYS[14 + band], 0, wanted + 15)
  for i = 1, #lanes do
    if wanted <= 0 or full then
      return
    end
    local lane = lanes[i]
    local key = LANE .. lane
    local deficit = tonumber(call('HGET', ACT, lane) or 0)
    local quota = deficit > 0 and deficit or quantum
    local k = math.min(wanted, quota)
    local ms = call('LRANGE', key, 0, k - 1)
    local took = 0
    local blocked = false
    if #ms > 0 then
      local values = call('HMGET', JOBS, unpack(ms))
      for j = 1, #ms do
        local envelope = values[j]
        if not envelope then
          took, skipped = took + 1, skipped + 1
        elseif not journaled_ok and #ms[j] > 16 then
          blocked = true
          break
        elseif #claimed > 0 and bytes + #envelope > want_bytes then
          full = true
          break
        else
          keep(ms[j], envelope, lane, 0)
          took, wanted = took + 1, wanted - 1
        end
      end
    end
    visits[#visits + 1] = {
      band = band, lane = lane, key = key, took = took, left = quota - took, short = #ms < k, blocked = blocked,
    }
  end
end

-- A band that has less than its share leaves the rest to the next request, which `more` asks for.
for _, band in ipairs(open) do
  visit(band, share[band] or 0)
end

-- Writes.
call('HSET', S, 'n', n)
if share.turn then
  call('HSET', META, 'turn', share.turn)
end
if suspect then
  call('LPOP', SUSPECT)
  if #claimed > 0 and claimed[1] == suspect then
    call('HSET', S, 'suspect', suspect)
  end
end
for i = 1, #visits do
  local v = visits[i]
  if v.took > 0 then
    call('LTRIM', v.key, v.took, -1)
  end
  if v.short and not v.blocked and not full and call('EXISTS', v.key) == 0 then
    call('LREM', KEYS[14 + v.band], 1, v.lane)
    call('HDEL', ACT, v.lane)
  elseif v.left <= 0 or v.blocked then
    call('LREM', KEYS[14 + v.band], 1, v.lane)
    call('RPUSH', KEYS[14 + v.band], v.lane)
    call('HSET', ACT, v.lane, 0)
  else
    call('HSET', ACT, v.lane, v.left)
  end
end

-- Behind the trimming of lanes: what goes back to the head of a lane must not be trimmed with what was claimed.
local codes, given_back = apply(items, entries, now, dead_cap)

local muts = {}
if #claimed > 0 then
  local writes = {}
  for i = 1, #claimed do
    writes[2 * i - 1], writes[2 * i] = claimed[i], run_values[i]
  end
  call('HSET', RUN, unpack(writes))
  if call('EXISTS', MUT) == 1 then
    muts = call('HMGET', MUT, unpack(claimed))
  end
end

local more = call('LLEN', SUSPECT) > 0
for band = 0, 3 do
  more = more or call('LLEN', KEYS[14 + band]) > 0
end
if not more then
  call('DEL', WAKE)
elseif given_back or (asked > 0 and #claimed + skipped >= asked) or full then
  wake()
end

local claims = {}
for i = 1, #claimed do
  claims[2 * i - 1], claims[2 * i] = claimed[i], envelopes[i]
end
return { 'OK', now, codes, more and 1 or 0, claims, muts }
