-- Moves time along: promotes what is due, lets lanes in that waited for a limit, dooms sessions that lapsed, and gives their jobs
-- back. Anyone may call it, as often as they like: sessions are looked at once in 0.8 s, or at once when a call left some of
-- the work.
-- ARGV 3 ttl of sessions in ms, 4 rescue limit (crashes among the suspects, until poison), 5 cap of dead jobs, 6 their longest
--   age in ms, 7 JSON line that buries a poison pill, 8 the one for a lost job that may run at most once.
-- Returns { now, promoted, rescued, poisoned, more, next due in ms or -1, grace given, { member to bury, ... } }
local now = now_ms()
local ttl, rescue_limit, dead_cap, dead_age = number(3), number(4), number(5), number(6)
local meta = call('HMGET', META, 'last_tick', 'limited', 'recount')
local limited = meta[2] == '1'
-- Nearly always an idle queue has nothing of all this, and one look says so.
local any = call('EXISTS', SCHED, PARKED, DUE, CANCEL, SUSPECT, TOBURY, DEAD, TAT, unpack(KEYS, 14, 17)) > 0

-- Jobs whose time has come.
local promoted, lanes = 0, {}
local function promote(waits)
  local due = call('ZRANGEBYSCORE', waits, '-inf', now, 'LIMIT', 0, 500)
  if #due > 0 then
    lanes = {}
    local envelopes = call('HMGET', JOBS, unpack(due))
    for i = 1, #due do
      if envelopes[i] then
        add_to(lanes, lane_of(envelopes[i]), due[i])
        promoted = promoted + 1
        -- Nobody called back in time: a call that comes from now on is late.
        local wait = waits == PARKED and call('HGET', CB, due[i])
        if wait then
          call('HSET', CB, due[i], 't' .. sub(wait, 2))
        end
      end
    end
    call('ZREM', waits, unpack(due))
    push_ready(lanes)
  end
  return #due == 500
end
local more = any and promote(SCHED)
more = any and promote(PARKED) or more

-- Nobody waits longer than LOOK_AGAIN, unless the clock stepped back.
local far = any and call('ZRANGEBYSCORE', DUE, now + LOOK_AGAIN + 1, '+inf', 'LIMIT', 0, 500) or {}
for i = 1, #far do
  call('ZADD', DUE, now, far[i])
end

-- Limits whose time has come: as many lanes come in as there is room for.
local due_ids = any and call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, 64) or {}
if #due_ids > 0 then
  for from = 1, #due_ids, 16 do
    local part = {}
    for i = from, math.min(from + 15, #due_ids) do
      part[#part + 1] = due_ids[i]
    end
    local specs = specs_of(part)
    for i = 1, #part do
      local id, spec, room = part[i], specs[i], 256
      if spec then
        room = spec.paused and 0 or room
        if spec.concurrency < NONE then
          room = math.min(room, spec.concurrency - call('HLEN', P .. 'c:' .. id))
        end
        if spec.interval > 0 then
          local free, tat, too_far = allowance(id, spec, now)
          room = math.min(room, free)
          if too_far then
            call('HSET', TAT, id, string.format('%.0f', tat))
          end
        end
      end
      if room > 0 then
        admit(id, room)
      end
      if call('EXISTS', P .. 'w:' .. id) == 0 then
        call('ZREM', DUE, id)
      elseif room >= 256 then
        more = true
      else
        call('ZADD', DUE, math.max(look_again(id, spec, now), now + 1), id)
      end
    end
  end
  more = more or #due_ids == 64
end

local rescued, poisoned, grace = 0, 0, 0
local freed, use, batches = {}, {}, {}
local cancelling = any and call('EXISTS', CANCEL) == 1

local function dies(m, line)
  poisoned = poisoned + 1
  if #m > 16 then
    call('ZADD', TOBURY, now, m)
  else
    note_error(m, line)
    bury(m, now, line, dead_cap)
  end
end

-- Two rescues lead among the suspects, where a job runs alone of its kind: only crashes there count to the limit.
local function rescue(m, entry, back)
  local lane, flags = sub(entry, 21, 20 + byte(entry, 16)), byte(entry, 15)
  if limited then
    stop_counting(freed, lane, m)
  end
  local envelope = call('HGET', JOBS, m)
  if not envelope then
    return
  end
  if cancelling and call('HEXISTS', CANCEL, m) == 1 then
    free_unique(m, envelope)
    release_usage(use, envelope)
    tally(batches, envelope, 'x')
    forget({ m })
    return
  end
  if has(flags, 64) then
    return dies(m, ARGV[8])
  end
  local old = call('HGET', MUT, m)
  local attempt, rescues, extras = '\0\0\0\0', 0, ''
  if old then
    attempt, rescues, extras = sub(old, 1, 4), byte(old, 5), sub(old, 12)
  end
  local own = byte(envelope, 16)
  local limit = own > 0 and own - 1 or rescue_limit
  if flags < 128 or rescues < math.min(limit + 1, 255) then
    rescued = rescued + 1
    call('HSET', MUT, m, attempt .. string.char(math.min(rescues + 1, 255)) .. ms6(now) .. extras)
    local digest = not has(flags, 8) and not has(flags, 16) and unique_of(envelope)
    if digest and call('HGET', UQ, digest) == m .. 'r' then
      call('HSET', UQ, digest, m)
    end
    if rescues >= 1 then
      call('RPUSH', SUSPECT, m)
    else
      add_to(back, lane, m)
    end
  else
    dies(m, ARGV[7])
  end
end

-- Counts anew what runs, one session a call, in the order of their names (their deadlines move meanwhile): somebody changed a limit
-- while jobs ran. An id that has no concurrency any more loses its count. Without any limit at the end, claims need not look.
local function recount(cursor)
  local sessions, sid = call('ZRANGE', SESS, 0, 9999), nil
  for i = 1, #sessions do
    if sessions[i] > cursor and (not sid or sessions[i] < sid) then
      sid = sessions[i]
    end
  end
  if not sid then
    call('HDEL', META, 'recount')
    if call('EXISTS', LIM) == 0 then
      call('HDEL', META, 'limited')
      limited = false
    end
    return
  end
  local running, counted = call('HGETALL', P .. 'run:' .. sid), {}
  for i = 1, #running, 2 do
    local entry = running[i + 1]
    local ids = ids_of(sub(entry, 21, 20 + byte(entry, 16)))
    for j = 1, #ids do
      counted[ids[j]] = counted[ids[j]] or {}
      table.insert(counted[ids[j]], running[i])
    end
  end
  for id, of in pairs(counted) do
    local spec = specs_of({ id })[1]
    if spec and spec.concurrency < NONE then
      for i = 1, #of do
        call('HSET', P .. 'c:' .. id, of[i], sid)
      end
    else
      call('DEL', P .. 'c:' .. id)
    end
  end
  call('HSET', META, 'recount', sid)
  more = true
end
if meta[3] then
  recount(meta[3])
end

-- Arrival times that are over say nothing: a look at some of them now and then keeps them few.
local function forget_rates()
  local cursor = call('HGET', META, 'tat_cursor') or '0'
  local found = call('HSCAN', TAT, cursor, 'COUNT', 64)
  local over = {}
  for i = 1, math.min(#found[2], 2000), 2 do
    if tonumber(found[2][i + 1]) < (now - 1000) * 1000 then
      over[#over + 1] = found[2][i]
    end
  end
  if #over > 0 then
    call('HDEL', TAT, unpack(over))
  end
  call('HSET', META, 'tat_cursor', found[1])
end

local last = tonumber(meta[1] or 0)
if now < last or now - last >= 800 then
  local unfinished = false
  -- Half a lease of silence, 5 s at most: longer than that, a session could lapse for want of somebody to hear it.
  local silence = math.min(5000, math.max(2000, ttl / 2))
  if last > 0 and (now < last or now - last > silence) then
    -- Nobody ticked: Redis was down, or everybody else was. No session could have said that it lives.
    grace = 1
    local sessions = call('ZRANGE', SESS, 0, 9999)
    for i = 1, #sessions do
      if call('EXISTS', P .. 's:' .. sessions[i]) == 1 then
        call('ZADD', SESS, now + ttl, sessions[i])
      end
    end
  else
    local lapsed = call('ZRANGEBYSCORE', SESS, '-inf', now, 'LIMIT', 0, 16)
    local budget = 1000
    for i = 1, #lapsed do
      local sid = lapsed[i]
      local run = P .. 'run:' .. sid
      -- Doomed whole: without this key none of its requests counts again.
      call('DEL', P .. 's:' .. sid)
      local entries = budget > 0 and call('HSCAN', run, 0, 'COUNT', 256)[2] or {}
      local drop, back = {}, {}
      for j = 1, math.min(#entries, 2 * budget, 1000), 2 do
        drop[#drop + 1] = entries[j]
        rescue(entries[j], entries[j + 1], back)
      end
      budget = budget - #drop
      if #drop > 0 then
        call('HDEL', run, unpack(drop))
        push_back(back)
      end
      if call('EXISTS', run) == 0 then
        call('ZREM', SESS, sid)
      else
        unfinished = true
      end
    end
    unfinished = unfinished or #lapsed == 16
  end
  -- The next call goes on at once with what this one left.
  call('HSET', META, 'last_tick', unfinished and now - 800 or now)
  more = more or unfinished

  -- Dead jobs go when they are old.
  local old = any and call('ZRANGEBYSCORE', DEAD, '-inf', now - dead_age, 'LIMIT', 0, 64) or {}
  if #old > 0 then
    call('ZREM', DEAD, unpack(old))
    call('HDEL', DEADREC, unpack(old))
    call('HINCRBY', META, 'dead_trimmed', #old)
  end
  if any and call('EXISTS', TAT) == 1 then
    forget_rates()
  end
end
settle_usage(use)
settle_batches(batches, now)
settle_limits(freed)

-- What was given back or let in stands where there was nothing before.
any = any or rescued + poisoned > 0 or call('EXISTS', SUSPECT, unpack(KEYS, 14, 17)) > 0
if not any then
  return { now, promoted, rescued, poisoned, more and 1 or 0, -1, grace, {} }
end
local ready = call('EXISTS', SUSPECT, unpack(KEYS, 14, 17)) > 0
-- A token that was lost with a connection is put back here within a second.
if ready then
  wake()
end
local next_due = -1
for _, waits in ipairs({ SCHED, PARKED, DUE }) do
  local first = call('ZRANGE', waits, 0, 0, 'WITHSCORES')
  if first[2] then
    local due = math.max(0, tonumber(first[2]) - now)
    next_due = next_due < 0 and due or math.min(next_due, due)
  end
end
-- What was let in is most often stopped by the same rate again, with its next job: whoever ticks looks once more soon.
if #due_ids > 0 then
  next_due = next_due < 0 and 20 or math.min(next_due, 20)
end
return { now, promoted, rescued, poisoned, more and 1 or 0, next_due, grace, call('ZRANGE', TOBURY, 0, 99) }
