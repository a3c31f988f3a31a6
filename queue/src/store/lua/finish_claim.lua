-- Finishes what a session ran and claims what fits, in one round trip.
-- KEYS 31 s:<sid>, 32 run:<sid>. ARGV 3 sid, 4 n, 5 prev_n, 6 claim_no8 (n again, as 8 bytes), 7 want (1000 at most are
--   given), 8 want_bytes, 9 quantum (jobs that a tenant gives before the next has its turn), 10 1 if journaled jobs may be
--   claimed, 11 cap of dead jobs, 12 number of plain completions, 13 number of other outcomes (at most 500 each); then m,
--   claim_no8 for each plain completion; then the others as session.lua reads them.
-- Returns { status, now, codes, more, { m, envelope, ... }, { mut or false, ... } }
--   status OK, GONE (the session is doomed), STALE (a newer request was served), ROLLBACK (Redis lost this session's last)
--   more   1 if this session could claim more right now
local now = now_ms()
local sid, n, prev_n, claim_no = ARGV[3], number(4), number(5), ARGV[6]
local want, want_bytes, quantum = math.min(number(7), 1000), number(8), number(9)
local journaled_ok, dead_cap = ARGV[10] == '1', number(11)
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
local meta = call('HMGET', META, 'paused', 'limited', 'turn')
local paused, limited = meta[1] == '1', meta[2] == '1'
if paused then
  want = 0
end

local plain, claims = {}, {}
for i = 1, at_most(500, 12) do
  plain[i], claims[i] = ARGV[12 + 2 * i], ARGV[13 + 2 * i]
end
local items, members = read_outcomes(14 + 2 * #plain, at_most(500, 13))
local plain_entries = #plain > 0 and call('HMGET', RUN, unpack(plain)) or {}
local entries = #members > 0 and call('HMGET', RUN, unpack(members)) or {}

-- Reads: which lanes give which jobs. Nothing is written before all of it is read.
local claimed, envelopes, run_values, unique, bytes, skipped, tombs = {}, {}, {}, {}, 0, 0, {}
-- Entries of cancelled jobs that one request passes over.
local MOST_SKIPPED = 1000
local claim = claim_no .. ms6(now)

local function keep(m, envelope, flags, entry)
  local i = #claimed + 1
  claimed[i], envelopes[i], run_values[i] = m, envelope, entry
  bytes = bytes + #envelope
  if flags % 4 >= 2 and flags % 32 < 16 then
    unique[#unique + 1] = i
  end
end

-- What limits a lane: one room for each of its ids that has a spec, shared by all lanes that count to it.
local rooms = {}

local function open_rooms(ids)
  local specs = #ids > 0 and specs_of(ids) or {}
  for i = 1, #ids do
    local id, spec, room = ids[i], specs[i], false
    if spec then
      room = { id = id, spec = spec, left = spec.paused and 0 or NONE, taken = {} }
      if spec.concurrency < NONE then
        room.left = math.min(room.left, math.max(spec.concurrency - call('HLEN', P .. 'c:' .. id), 0))
      end
      if spec.interval > 0 then
        local free, tat = allowance(id, spec, now)
        room.left, room.tat = math.min(room.left, free), tat
      end
    end
    rooms[id] = room
  end
end

local function rooms_of(lane)
  local of, unknown = {}, {}
  local ids = ids_of(lane)
  for i = 2, #ids do
    if rooms[ids[i]] == nil then
      unknown[#unknown + 1] = ids[i]
    end
  end
  open_rooms(unknown)
  for i = 2, #ids do
    if rooms[ids[i]] then
      of[#of + 1] = rooms[ids[i]]
    end
  end
  return of
end

-- What limits the queue as a whole holds back no lane: there is less to give, and bands and tenants have their shares of that.
if limited then
  open_rooms({ 'q' })
end
local whole = rooms.q
if whole then
  want = math.min(want, whole.left)
end
local asked = want

-- How many more of these jobs may run, and the room that says so.
local function narrowest(of)
  local left, narrow = NONE, nil
  for i = 1, #of do
    if of[i].left < left then
      left, narrow = of[i].left, of[i]
    end
  end
  return left, narrow
end

local function enter(of, m)
  if whole then
    whole.left = whole.left - 1
    whole.taken[#whole.taken + 1] = m
  end
  for i = 1, #of do
    of[i].left = of[i].left - 1
    of[i].taken[#of[i].taken + 1] = m
  end
end

local FREE = {}

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
local suspects, suspect, heads, passed = {}, nil, {}, {}
if want > 0 and suspect_free then
  heads = call('LRANGE', SUSPECT, 0, 15)
  for i = 1, #heads do
    local m = heads[i]
    passed[#passed + 1] = m
    if journaled_ok or #m == 16 then
      local envelope = call('HGET', JOBS, m)
      if not envelope then
        suspects[#suspects + 1] = m
        skipped = skipped + 1
        tombs[skipped] = m
        passed[#passed] = nil
      else
        local lane, flags = lane_of(envelope), byte(envelope, 14)
        local of = limited and rooms_of(lane) or FREE
        if narrowest(of) > 0 then
          enter(of, m)
          suspects[#suspects + 1] = m
          suspect = m
          keep(m, envelope, flags, entry_of(claim, flags + 128, lane, #envelope))
          want = want - 1
          break
        end
      end
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
  local turn = tonumber(meta[3] or 0)
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
-- `turns` has a lane for each turn that it had, in their order; `visited` the lanes of each band, in theirs.
local full, more, blocked, turns, visited = false, false, false, {}, {}
local most_turns = 2 * asked + 64

local function turn_of(v, wanted)
  local deficit = v.left or tonumber(call('HGET', ACT, v.lane) or 0)
  local quota = deficit > 0 and deficit or v.quantum
  local left, narrow = narrowest(v.rooms)
  local most, took, got = math.min(wanted, left), 0, 0
  if most > 0 then
    -- Behind cancelled jobs, more than is wanted is looked at.
    local k = math.min(quota, v.rest, v.skipped and 32 or most)
    local ms = call('LRANGE', v.key, v.took, v.took + k - 1)
    local values = call('HMGET', JOBS, unpack(ms))
    for j = 1, k do
      local m, envelope = ms[j], values[j]
      if not envelope then
        skipped, v.skipped = skipped + 1, true
        tombs[skipped] = m
      elseif got == most then
        break
      elseif not journaled_ok and #m > 16 then
        v.blocked, blocked = true, true
        break
      elseif #claimed > 0 and bytes + #envelope > want_bytes then
        full = true
        break
      else
        -- The entries of a lane's jobs differ in their flags and sizes only.
        local flags = byte(envelope, 14)
        local head = v.heads[flags]
        if not head then
          head = claim .. string.char(flags, #v.lane)
          v.heads[flags] = head
        end
        keep(m, envelope, flags, head .. struct.pack('>I4', #envelope) .. v.tail)
        enter(v.rooms, m)
        got = got + 1
      end
      took = took + 1
      if skipped >= MOST_SKIPPED then
        full = true
        break
      end
    end
    left, narrow = narrowest(v.rooms)
  end
  v.left, v.took, v.rest = quota - took, v.took + took, v.rest - took
  if left == 0 and v.rest > 0 then
    -- It steps aside until there is room again.
    v.blocked, v.waits = true, narrow
  end
  turns[#turns + 1] = v
  v.turn = #turns
  return wanted - got
end

-- The quantum of each lane: a tenant's share is divided by its lanes. Read for some lanes ahead.
local function quanta(lanes, from, into)
  local tenants, last = {}, math.min(from + 7, #lanes)
  for i = from, last do
    tenants[#tenants + 1] = tenant_of(lanes[i])
  end
  local count = call('HMGET', TL, unpack(tenants))
  for i = from, last do
    into[i] = math.max(1, floor(quantum / math.max(tonumber(count[i - from + 1] or 1), 1)))
  end
end

local function visit(band, wanted)
  -- Without journaled jobs, or with limits, more of the lanes come to nothing.
  local reach = (journaled_ok and not limited) and wanted + 16 or math.max(wanted + 16, 64)
  local lanes = wanted > 0 and call('LRANGE', KEYS[14 + band], 0, reach - 1) or {}
  local visits, quantum_of = {}, {}
  visited[band] = visits
  for i = 1, #lanes do
    if wanted <= 0 or full then
      break
    end
    local lane = lanes[i]
    if not quantum_of[i] then
      quanta(lanes, i, quantum_of)
    end
    local key = LANE .. lane
    local v = {
      band = band, lane = lane, key = key, took = 0, rest = call('LLEN', key), heads = {}, quantum = quantum_of[i],
      tail = lane .. string.rep('.', 45 - #lane), rooms = limited and rooms_of(lane) or FREE,
    }
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
-- moved to the tail, and the next tick wakes somebody. Lanes that wait for a limit are out of the ring, and worth another look.
local stepped_aside = false
for i = 1, #turns do
  stepped_aside = stepped_aside or turns[i].waits ~= nil
end
if (blocked and not stepped_aside and #claimed + skipped == 0) or paused then
  more = false
end

-- Writes.
call('HSET', S, 'n', n)
if #tombs > 0 then
  call('HDEL', TOMB, unpack(tombs))
end
if share.turn then
  call('HSET', META, 'turn', share.turn)
end
for i = 1, #suspects do
  call('LREM', SUSPECT, 1, suspects[i])
end
-- Those that it may not have go behind the others: sixteen of a paused kind must not hide the rest for as long as it is paused.
if not suspect and #heads == 16 and #passed > 0 then
  call('LTRIM', SUSPECT, #passed, -1)
  call('RPUSH', SUSPECT, unpack(passed))
end
-- The visited lanes stood at the heads of their rings. Those that were cut short stay there, those that have had their turn go
-- to the tail, empty ones and those that wait for a limit leave.
local acts, gone, tenants, waiting = {}, {}, {}, {}
local tails = {}
for i = 1, #turns do
  local v = turns[i]
  if v.turn == i then
    if v.took > 0 then
      call('LTRIM', v.key, v.took, -1)
    end
    if v.rest == 0 then
      gone[#gone + 1] = v.lane
      local tenant = tenant_of(v.lane)
      tenants[tenant] = (tenants[tenant] or 0) - 1
    else
      acts[#acts + 1] = v.lane
      if v.waits then
        acts[#acts + 1] = WAITS
        waiting[#waiting + 1] = v
      elseif v.left > 0 and not v.blocked then
        acts[#acts + 1] = v.left
      else
        acts[#acts + 1] = 0
        add_to(tails, v.band, v.lane)
      end
    end
  end
end
for band, visits in pairs(visited) do
  if #visits > 0 then
    local ring = KEYS[14 + band]
    call('LTRIM', ring, #visits, -1)
    local stay = {}
    for i = #visits, 1, -1 do
      local v = visits[i]
      if v.rest > 0 and v.left > 0 and not v.blocked then
        stay[#stay + 1] = v.lane
      end
    end
    if #stay > 0 then
      call('LPUSH', ring, unpack(stay))
    end
    if tails[band] then
      call('RPUSH', ring, unpack(tails[band]))
    end
  end
end
if #acts > 0 then
  call('HSET', ACT, unpack(acts))
end
if #gone > 0 then
  call('HDEL', ACT, unpack(gone))
  count_lanes(tenants)
end

-- Behind the trimming of lanes: what goes back to the head of a lane must not be trimmed with what was claimed.
local done, ledger = {}, new_ledger(limited)
local codes, back, suspect_back = #plain > 0 and complete(plain, claims, plain_entries, done, now, ledger) or '', false, false
if #items > 0 then
  local others
  others, back, suspect_back = apply(items, entries, now, dead_cap, done, ledger)
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
-- A unique key stands for a running job from now on, or is free if it was to hold while the job was queued only.
if #unique > 0 then
  local digests, writes, free = {}, {}, {}
  for i = 1, #unique do
    digests[i] = unique_of(envelopes[unique[i]])
  end
  local stands = call('HMGET', UQ, unpack(digests))
  for i = 1, #unique do
    local m = claimed[unique[i]]
    if stands[i] == m then
      if has(byte(envelopes[unique[i]], 14), 8) then
        free[#free + 1] = digests[i]
      else
        writes[#writes + 1], writes[#writes + 2] = digests[i], m .. 'r'
      end
    end
  end
  if #writes > 0 then
    call('HSET', UQ, unpack(writes))
  end
  if #free > 0 then
    call('HDEL', UQ, unpack(free))
  end
end
for id, room in pairs(rooms) do
  if room and #room.taken > 0 then
    if room.spec.concurrency < NONE then
      local counted = {}
      for i = 1, #room.taken do
        counted[2 * i - 1], counted[2 * i] = room.taken[i], sid
      end
      call('HSET', P .. 'c:' .. id, unpack(counted))
    end
    if room.tat then
      call('HSET', TAT, id, string.format('%.0f', room.tat + #room.taken * room.spec.interval))
    end
  end
end
for i = 1, #waiting do
  local id = waiting[i].waits.id
  call('RPUSH', P .. 'w:' .. id, waiting[i].lane)
  call('ZADD', DUE, 'LT', look_again(id, waiting[i].waits.spec, now), id)
end
-- A lane may have come in for slots that it had no use for: its jobs were cancelled, or another limit holds it back. Then
-- others may have them. And where a rate was used up by lanes that are empty now, those that wait are told its next time.
local limits = {}
for id, room in pairs(limited and call('EXISTS', DUE) == 1 and rooms or {}) do
  limits[#limits + 1] = room and id or nil
end
for from = 1, #limits, 1000 do
  local last = math.min(from + 999, #limits)
  local waited_for = call('ZMSCORE', DUE, unpack(limits, from, last))
  for i = from, last do
    local id, room = limits[i], rooms[limits[i]]
    if waited_for[i - from + 1] and room.left > 0 then
      back = admit(id, room.left) > 0 or back
    elseif waited_for[i - from + 1] and room.tat then
      call('ZADD', DUE, 'LT', look_again(id, room.spec, now), id)
    end
  end
end
local freed = settle(ledger, now)
back = freed or back

local suspects_left = call('EXISTS', SUSPECT) == 1
local left = suspects_left or call('EXISTS', unpack(KEYS, 14, 17)) > 0
-- Nobody is woken for what nobody may have: a slot that gets free, or the next time of the rate, does that.
local full_up = whole and whole.left == 0 and not freed
if left and full_up and whole.tat then
  call('ZADD', DUE, 'LT', look_again('q', whole.spec, now), 'q')
end
if paused or full_up or not left then
  call('DEL', WAKE)
elseif
  back
  or suspect_back
  or (suspects_left and suspect)
  or (more and asked > 0 and (full or #claimed + skipped >= asked))
then
  wake()
end
-- Suspects that were passed over are journaled ones, which it may not have, or wait for a limit.
local passed_over = asked > 0 and #suspects == 0 and not suspect_back
more = not paused and not full_up and (more or (back and left) or (suspects_left and suspect_free and not suspect and not passed_over))

local answer = {}
for i = 1, #claimed do
  answer[2 * i - 1], answer[2 * i] = claimed[i], envelopes[i]
end
return { 'OK', now, codes, more and 1 or 0, answer, muts }
