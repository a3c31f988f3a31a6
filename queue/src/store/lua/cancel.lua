-- Cancels jobs. ARGV 3 number (at most 100), 4 'w' if what runs is to be left alone, or ''; then the members.
-- Returns a letter for each: d it waited and is gone, s it runs and, unless it is left alone, is told to stop, u not known.
-- The entry of a ready job stays in its lane: claims pass over members that have no envelope. Until one does, TOMB remembers the
-- member, so that a producer who asks again for the same job does not put it into the lane twice.
local now = now_ms()
local members, count = {}, at_most(100, 3)
local stops = ARGV[4] ~= 'w'
if count == 0 then
  return ''
end
for i = 1, count do
  members[i] = ARGV[4 + i]
end
local envelopes = call('HMGET', JOBS, unpack(members))
local due, parked, poison = call('ZMSCORE', SCHED, unpack(members)), call('ZMSCORE', PARKED, unpack(members)),
  call('ZMSCORE', TOBURY, unpack(members))

-- Which of the others run. `open` are those that were found nowhere yet.
local running, open = {}, {}
for i = 1, count do
  if envelopes[i] and not due[i] and not parked[i] and not poison[i] then
    open[#open + 1] = members[i]
  end
end
local sessions = #open > 0 and call('ZRANGE', SESS, 0, 4095) or {}
for i = 1, #sessions do
  if #open == 0 then
    break
  end
  local entries, left = call('HMGET', P .. 'run:' .. sessions[i], unpack(open)), {}
  for j = 1, #open do
    if entries[j] then
      running[open[j]] = true
    else
      left[#left + 1] = open[j]
    end
  end
  open = left
end
-- Nobody has so many sessions. If somebody has, what was not found may run in one that was not looked at.
if #sessions == 4096 then
  for i = 1, #open do
    running[open[i]] = true
  end
end

local codes, over, stop, tombs, scheduled, waiting, doomed = {}, {}, {}, {}, {}, {}, {}
local use, batches, seen = {}, {}, {}
for i = 1, count do
  local m, envelope = members[i], envelopes[i]
  if not envelope or seen[m] then
    codes[i] = running[m] and 's' or 'u'
  elseif running[m] then
    codes[i] = 's'
    if stops then
      stop[#stop + 1] = m
    end
  else
    codes[i] = 'd'
    over[#over + 1] = m
    release_usage(use, envelope)
    tally(batches, envelope, 'x')
    local from = due[i] and scheduled or parked[i] and waiting or poison[i] and doomed or tombs
    from[#from + 1] = m
  end
  seen[m] = true
end
for i = 1, #stop do
  call('HSETNX', CANCEL, stop[i], now)
end
if #scheduled > 0 then
  call('ZREM', SCHED, unpack(scheduled))
end
if #waiting > 0 then
  call('ZREM', PARKED, unpack(waiting))
end
if #doomed > 0 then
  call('ZREM', TOBURY, unpack(doomed))
end
if #tombs > 0 then
  local writes = {}
  for i = 1, #tombs do
    writes[2 * i - 1], writes[2 * i] = tombs[i], now
  end
  call('HSET', TOMB, unpack(writes))
end
for i = 1, count do
  if codes[i] == 'd' then
    free_unique(members[i], envelopes[i])
  end
end
forget(over)
settle_usage(use)
settle_batches(batches, now)
return table.concat(codes)
