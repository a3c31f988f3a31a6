-- Brings a session and what its process really runs to agreement, after anything that may have lost a request or a reply.
-- KEYS 31 s:<sid>, 32 run:<sid>. ARGV 3 sid, 4 n, 5 ttl, 6 cap of dead jobs, 7 number of running jobs, 8 number of recent
--   outcomes, 9 the JSON line that buries a lost job which may run at most once; then m, claim_no8 for each running job; then
--   the outcomes. The numbers are bounded by what ARGV can hold.
-- Requests with a lower n that are still on their way die as STALE. Leases that nobody executes go back to the head of
-- their lanes, with no attempt counted; of those that must run at most once it is not known whether they ran: they are dead.
-- At most 500 go back in one call; `more` asks for another.
-- Returns { status, now, codes of the outcomes, given back, more, { lost m, ... } }
local now = now_ms()
local sid, n, ttl, dead_cap, running = ARGV[3], number(4), number(5), number(6), number(7)
local stored = call('HGET', S, 'n')
if not stored then
  return { 'GONE', now }
end
if n <= tonumber(stored) then
  return { 'STALE', now }
end
local items = read_outcomes(10 + 2 * running, number(8))
local limited = call('HGET', META, 'limited') == '1'
local held = {}
local all = call('HGETALL', RUN)
for i = 1, #all, 2 do
  held[all[i]] = all[i + 1]
end

call('HSET', S, 'n', n)
call('ZADD', SESS, now + ttl, sid)
local codes, given_back, ledger = {}, false, new_ledger(limited)
for i = 1, #items, 500 do
  local part, entries = {}, {}
  for j = i, math.min(i + 499, #items) do
    local m, token = items[j].m, items[j].token
    part[#part + 1] = items[j]
    -- `false` keeps the place: a nil would end the list.
    entries[#part] = held[m] or false
    if owned(held[m], token) then
      held[m] = nil
    end
  end
  local applied, back, suspect_back = apply(part, entries, now, dead_cap, {}, ledger)
  codes[#codes + 1] = applied
  given_back = given_back or back or suspect_back
end

local lost = {}
for i = 10, 9 + 2 * running, 2 do
  local entry = held[ARGV[i]]
  if entry and sub(entry, 1, 8) == ARGV[i + 1] then
    held[ARGV[i]] = nil
  else
    lost[#lost + 1] = ARGV[i]
  end
end

local suspect = call('HGET', S, 'suspect')
local orphans = {}
for m in pairs(held) do
  orphans[#orphans + 1] = m
end
-- As they were claimed; the last 500 first, because each call puts its own before the others.
table.sort(orphans, function(a, b)
  return held[a] .. a < held[b] .. b
end)
local lanes, suspects, drop, lost_for_good, cancelled = {}, {}, {}, {}, {}
local cancelling = call('EXISTS', CANCEL) == 1
for i = math.max(1, #orphans - 499), #orphans do
  local m = orphans[i]
  local entry = held[m]
  local flags, lane = byte(entry, 15), lane_in(entry)
  drop[#drop + 1] = m
  if m == suspect then
    call('HDEL', S, 'suspect')
  end
  if limited then
    stop_counting(ledger.freed, lane, m)
  end
  if cancelling and call('HEXISTS', CANCEL, m) == 1 then
    local envelope = call('HGET', JOBS, m)
    leaves(ledger, m, 'x', entry, lane, now)
    free_unique(m, envelope)
    tally(ledger.batches, envelope, 'x')
    cancelled[#cancelled + 1] = m
  elseif has(flags, 64) and #m == 16 then
    lost_for_good[#lost_for_good + 1] = m
  else
    back_to(lanes, suspects, m, entry)
  end
end
if #drop > 0 then
  call('HDEL', RUN, unpack(drop))
  forget(cancelled)
  for i = 1, #lost_for_good do
    note_error(lost_for_good[i], ARGV[9])
    bury(lost_for_good[i], now, ARGV[9], dead_cap)
  end
  give_back(lanes, suspects)
end
local admitted = settle(ledger, now)
if #drop > 0 or given_back or admitted then
  wake()
end
return { 'OK', now, table.concat(codes), #drop, #orphans > 500 and 1 or 0, lost }
