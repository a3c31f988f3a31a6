-- Moves time along: promotes what is due, dooms sessions that lapsed, and gives their jobs back. Anyone may call it, as
-- often as they like: sessions are looked at once in 0.8 s, or at once when a call left some of the work.
-- ARGV 3 ttl of sessions in ms, 4 rescue limit (crashes among the suspects, until poison), 5 cap of dead jobs, 6 JSON line
--   that buries a poison pill.
-- Returns { now, promoted, rescued, poisoned, more, next due in ms or -1, grace given, { member to bury, ... } }
local now = now_ms()
local ttl, rescue_limit, dead_cap = number(3), number(4), number(5)

local promoted, lanes = 0, {}
local due = call('ZRANGEBYSCORE', SCHED, '-inf', now, 'LIMIT', 0, 500)
if #due > 0 then
  local envelopes = call('HMGET', JOBS, unpack(due))
  for i = 1, #due do
    if envelopes[i] then
      add_to(lanes, lane_of(envelopes[i]), due[i])
      promoted = promoted + 1
    end
  end
  call('ZREM', SCHED, unpack(due))
  push_ready(lanes)
end
local more = #due == 500

local rescued, poisoned, grace = 0, 0, 0

-- Two rescues lead among the suspects, where a job runs alone of its kind: only crashes there count to the limit.
local function rescue(m, entry, back)
  local old = call('HGET', MUT, m)
  local attempt, rescues = '\0\0\0\0', 0
  if old then
    attempt, rescues = sub(old, 1, 4), byte(old, 5)
  end
  if byte(entry, 15) < 128 or rescues < math.min(rescue_limit + 1, 255) then
    rescued = rescued + 1
    call('HSET', MUT, m, attempt .. string.char(math.min(rescues + 1, 255)) .. ms6(now))
    if rescues >= 1 then
      call('RPUSH', SUSPECT, m)
    else
      add_to(back, sub(entry, 17, 16 + byte(entry, 16)), m)
    end
  else
    poisoned = poisoned + 1
    if #m > 16 then
      call('ZADD', TOBURY, now, m)
    else
      note_error(m, ARGV[6])
      bury(m, now, ARGV[6], dead_cap)
    end
  end
end

local last = tonumber(call('HGET', META, 'last_tick') or 0)
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
end

local ready = call('EXISTS', SUSPECT) == 1
for band = 0, 3 do
  ready = ready or call('EXISTS', KEYS[14 + band]) == 1
end
-- A token that was lost with a connection is put back here within a second.
if ready then
  wake()
end
local next_due = -1
local first = call('ZRANGE', SCHED, 0, 0, 'WITHSCORES')
if first[2] then
  next_due = math.max(0, tonumber(first[2]) - now)
end
return { now, promoted, rescued, poisoned, more and 1 or 0, next_due, grace, call('ZRANGE', TOBURY, 0, 99) }
