-- Finishes what a session ran and claims what fits, in one round trip.
-- KEYS 18 s:<sid>, 19 run:<sid>. ARGV 3 sid, 4 n, 5 prev_n, 6 claim_no8 (n again, as 8 bytes), 7 want (1000 at most are
--   given), 8 want_bytes, 9 quantum (jobs that a lane gives before the next has its turn), 10 1 if journaled jobs may be
--   claimed, 11 cap of dead jobs, 12 number of plain completions, 13 number of other outcomes (at most 500 each); then m,
--   claim_no8 for each plain completion; then the others as session.lua reads them.
-- Returns { status, now, codes, more, { m, envelope, ... }, { mut or false, ... } }
--   status OK, GONE (the session is doomed), STALE (a newer request was served), ROLLBACK (Redis lost this session's last)
--   more   1 if this session could claim more right now
local now = now_ms()
local n, prev_n, claim_no = number(4), number(5), ARGV[6]
local want, want_bytes, quantum = math.min(number(7), 1000), number(8), number(9)
local journaled_ok, dead_cap = ARGV[10] == '1', number(11)
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

local plain, claims = {}, {}
for i = 1, at_most(500, 12) do
  plain[i], claims[i] = ARGV[12 + 2 * i], ARGV[13 + 2 * i]
end
local items, members = read_outcomes(14 + 2 * #plain, at_most(500, 13))
local plain_entries = #plain > 0 and call('HMGET', RUN, unpack(plain)) or {}
local entries = #members > 0 and call('HMGET', RUN, unpack(members)) or {}

-- Reads: which lanes give which jobs. Nothing is written before all of it is read.
local claimed, envelopes, run_values, bytes, skipped = {}, {}, {}, 0, 0
local claim = claim_no .. ms6(now)

local function keep(m, envelope, entry)
  local i = #claimed + 1
  claimed[i], envelopes[i], run_values[i] = m, envelope, entry
  bytes = bytes + #envelope
end

-- A job that was rescued twice runs alone among its kind: at most one in each session, so that only a crash of that one
-- counts against it. One that this request finishes makes room for the next.
local suspect_free = not session[2]
for i = 1, session[2] and #plain or 0 do
  if plain[i] == session[2] and plain_entries[i] and sub(plain_entries[i], 1, 8) == claims[i] then
    suspect_free = true
  end
end
for i = 1, #items do
  if items[i].m == session[2] and owned(entries[i], items[i].token) then
    suspect_free = true
  end
end
local suspects, suspect = {}, nil
if want > 0 and suspect_free then
  local heads = call('LRANGE', SUSPECT, 0, 15)
  for i = 1, #heads do
    local m = heads[i]
    if journaled_ok or #m == 16 then
      local envelope = call('HGET', JOBS, m)
      suspects[#suspects + 1] = m
      if envelope then
        suspect = m
        keep(m, envelope, entry_of(claim, byte(envelope, 14) + 128, lane_of(envelope)))
        want = want - 1
        break
      end
      skipped = skipped + 1
    end
  end
end

-- 8:4:2:1, dealt over 15 turns; the turn is remembered, so that claims of one job are dealt as fairly as large ones.
local TURNS = { 0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0 }
local rings, open, share = {}, {}, {}
for band = 0, 3 do
  rings[band] = call('LLEN', KEYS[14 + band])
  if rings[band] > 0 then
    open[#open + 1] = band
  end
end
if #open == 1 then
  share[open[1]] = want
elseif #open > 1 and want > 0 then
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

-- `more`: there are jobs that only `want` or `want_bytes` kept from this claim. `blocked`: there are some that it may not have.
-- `turns` has a lane for each turn that it had, in their order.
local full, more, blocked, turns = false, false, false, {}
local most_turns = 2 * asked + 64

local function turn_of(v, wanted)
  local deficit = v.left or tonumber(call('HGET', ACT, v.lane) or 0)
  local quota = deficit > 0 and deficit or quantum
  local k = math.min(wanted, quota, v.rest)
  local took = 0
  if k > 0 then
    local ms = call('LRANGE', v.key, v.took, v.took + k - 1)
    local values = call('HMGET', JOBS, unpack(ms))
    for j = 1, k do
      local envelope = values[j]
      if not envelope then
        skipped = skipped + 1
      elseif not journaled_ok and #ms[j] > 16 then
        v.blocked, blocked = true, true
        break
      elseif #claimed > 0 and bytes + #envelope > want_bytes then
        full = true
        break
      else
        -- The entries of a lane's jobs differ in nothing but their flags.
        local flags = byte(envelope, 14)
        local entry = v.entries[flags]
        if not entry then
          entry = entry_of(claim, flags, v.lane)
          v.entries[flags] = entry
        end
        keep(ms[j], envelope, entry)
        wanted = wanted - 1
      end
      took = took + 1
    end
  end
  v.left, v.took, v.rest = quota - took, v.took + took, v.rest - took
  turns[#turns + 1] = v
  v.turn = #turns
  return wanted
end

local function visit(band, wanted)
  -- Without journaled jobs more of the lanes come to nothing.
  local reach = journaled_ok and wanted + 16 or math.max(wanted + 16, 64)
  local lanes = wanted > 0 and call('LRANGE', KEYS[14 + band], 0, reach - 1) or {}
  local visits = {}
  for i = 1, #lanes do
    if wanted <= 0 or full then
      break
    end
    local key = LANE .. lanes[i]
    local v = { band = band, lane = lanes[i], key = key, took = 0, rest = call('LLEN', key), entries = {} }
    visits[i] = v
    wanted = turn_of(v, wanted)
  end
  if rings[band] > #visits then
    more = true
    return
  end
  -- All lanes had their turn: those that have more have another, until there is enough.
  local again = true
  while again and wanted > 0 and not full and #turns < most_turns do
    again = false
    for i = 1, #visits do
      local v = visits[i]
      if v.rest > 0 and not v.blocked and wanted > 0 and not full then
        wanted = turn_of(v, wanted)
        again = true
      end
    end
  end
  for i = 1, #visits do
    more = more or (visits[i].rest > 0 and not visits[i].blocked)
  end
end

-- A band that has less than its share leaves the rest to the next request, which `more` asks for.
for _, band in ipairs(open) do
  visit(band, share[band] or 0)
end
-- Lanes beyond the reach may be blocked like those before them: asking again at once would go round for nothing. They have
-- moved to the tail, and the next tick wakes somebody.
if blocked and #claimed + skipped == 0 then
  more = false
end

-- Writes.
call('HSET', S, 'n', n)
if share.turn then
  call('HSET', META, 'turn', share.turn)
end
for i = 1, #suspects do
  call('LREM', SUSPECT, 1, suspects[i])
end
for i = 1, #turns do
  local v = turns[i]
  if v.turn == i then
    local ring = KEYS[14 + v.band]
    if v.took > 0 then
      call('LTRIM', v.key, v.took, -1)
    end
    if v.rest == 0 then
      call('LREM', ring, 1, v.lane)
      call('HDEL', ACT, v.lane)
    elseif v.left > 0 and not v.blocked then
      call('HSET', ACT, v.lane, v.left)
    else
      call('HSET', ACT, v.lane, 0)
      if rings[v.band] > 1 then
        call('LREM', ring, 1, v.lane)
        call('RPUSH', ring, v.lane)
      end
    end
  end
end

-- Behind the trimming of lanes: what goes back to the head of a lane must not be trimmed with what was claimed.
local done = {}
local codes, back, suspect_back = #plain > 0 and complete(plain, claims, plain_entries, done) or '', false, false
if #items > 0 then
  local others
  others, back, suspect_back = apply(items, entries, now, dead_cap, done)
  codes = codes .. others
end
if suspect then
  call('HSET', S, 'suspect', suspect)
end

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

local suspects_left = call('LLEN', SUSPECT) > 0
local left = suspects_left
for band = 0, 3 do
  left = left or call('LLEN', KEYS[14 + band]) > 0
end
if not left then
  call('DEL', WAKE)
elseif
  back
  or suspect_back
  or (suspects_left and suspect)
  or (more and asked > 0 and (full or #claimed + skipped >= asked))
then
  wake()
end
-- Suspects that were passed over are journaled ones, which it may not have.
local passed_over = asked > 0 and #suspects == 0 and not suspect_back
more = more or back or (suspects_left and suspect_free and not suspect and not passed_over)

local answer = {}
for i = 1, #claimed do
  answer[2 * i - 1], answer[2 * i] = claimed[i], envelopes[i]
end
return { 'OK', now, codes, more and 1 or 0, answer, muts }
