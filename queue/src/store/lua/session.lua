-- What finish_claim and sync share: applying outcomes, and giving jobs back.
--
-- An outcome is m, token (claim_no8 and a letter), and for the letters r s b k also delay_ms and blob:
--   c complete, k complete and keep the result (blob) for an hour, x cancelled, g gone (its journal row is)
--   r retry after delay (blob: attempt4 and the error's line), s snooze for delay, l release
--   b bury (blob: the error's line, as the reason); a journaled job was moved in Postgres first, and is forgotten here
-- Codes: 'a' applied, '-' applied before (it is no longer held), 'n' not yours (claimed again since).
local S, RUN = KEYS[18], KEYS[19]

-- The entry must be exactly the claim that this outcome speaks of: a job that went back and was claimed again by this very
-- session has another claim number.
local function owned(entry, token)
  return entry and sub(entry, 1, 8) == sub(token, 1, 8)
end

-- What stands for a claimed job; `claim` is its claim number and time.
local function entry_of(claim, flags, lane)
  local entry = claim .. string.char(flags, #lane) .. lane
  if #entry < 65 then
    entry = entry .. string.rep('.', 65 - #entry)
  end
  return entry
end

local function lane_in(entry)
  return sub(entry, 17, 16 + byte(entry, 16))
end

-- Completes plainly: `members` with the claim numbers `claims`. Nearly all outcomes are of this kind, so it is spared every
-- table and string that it can do without. `done` is told which jobs are over. Returns the codes.
local function complete(members, claims, entries, done)
  local codes, over = {}, {}
  local suspect = call('HGET', S, 'suspect')
  for i = 1, #members do
    local entry, m = entries[i], members[i]
    if not entry or done[m] then
      codes[i] = '-'
    elseif sub(entry, 1, 8) ~= claims[i] then
      codes[i] = 'n'
    else
      codes[i] = 'a'
      done[m] = true
      over[#over + 1] = m
      if byte(entry, 15) % 4 >= 2 then
        free_unique(m, call('HGET', JOBS, m))
      end
      if m == suspect then
        call('HDEL', S, 'suspect')
      end
    end
  end
  if #over > 0 then
    call('HDEL', RUN, unpack(over))
    forget(over)
  end
  return table.concat(codes)
end

local OPERANDS = { c = false, x = false, g = false, l = false, r = true, s = true, b = true, k = true }

-- Reads `count` outcomes from ARGV at `at`. Nothing is written. Returns the list, their members, and where they end.
local function read_outcomes(at, count)
  local items, members = {}, {}
  for i = 1, count do
    local item = { m = ARGV[at], token = ARGV[at + 1] }
    item.letter = sub(item.token, 9)
    local operands = OPERANDS[item.letter]
    if operands == nil or #item.m < 16 then
      error('outcome ' .. i .. ' is not readable')
    end
    at = at + 2
    if operands then
      item.delay, item.blob = number(at), ARGV[at + 1]
      at = at + 2
    end
    items[i], members[i] = item, item.m
  end
  return items, members, at
end

-- Where a claimed job goes back to: a suspect stays among the suspects.
local function back_to(lanes, suspects, m, entry)
  if byte(entry, 15) >= 128 then
    suspects[#suspects + 1] = m
  else
    add_to(lanes, lane_in(entry), m)
  end
end

-- Gives jobs back to the heads that they came from.
local function give_back(lanes, suspects)
  push_back(lanes)
  if #suspects > 0 then
    call('LPUSH', SUSPECT, unpack(suspects))
  end
end

-- Applies at most 500 outcomes, of which those in `done` were applied before. Returns their codes, whether any job
-- is in its lane again, and whether a suspect is among the suspects again.
local function apply(items, entries, now, dead_cap, done)
  local codes, drop, over, lanes, suspects, tail = {}, {}, {}, {}, {}, {}
  local suspect = call('HGET', S, 'suspect')
  for i = 1, #items do
    local item, entry = items[i], entries[i]
    local m, letter = item.m, item.letter
    if not entry or done[m] then
      codes[i] = '-'
    elseif not owned(entry, item.token) then
      codes[i] = 'n'
    else
      codes[i] = 'a'
      done[m] = true
      drop[#drop + 1] = m
      local flags = byte(entry, 15)
      if m == suspect then
        call('HDEL', S, 'suspect')
      end
      if letter == 'l' then
        back_to(lanes, suspects, m, entry)
      elseif letter == 'r' or letter == 's' then
        -- Having come to an outcome, it has not killed its process: its rescues are forgotten.
        local old = call('HGET', MUT, m)
        local attempt = old and sub(old, 1, 4) or '\0\0\0\0'
        if letter == 'r' then
          attempt = sub(item.blob, 1, 4)
          note_error(m, sub(item.blob, 5))
        end
        local due = math.min(now + math.max(item.delay, 0), FAR)
        call('HSET', MUT, m, attempt .. '\0' .. ms6(due))
        if due > now then
          call('ZADD', SCHED, due, m)
        else
          add_to(tail, lane_in(entry), m)
        end
      elseif letter == 'b' and #m == 16 then
        note_error(m, item.blob)
        bury(m, now, item.blob, dead_cap)
      else
        if flags % 4 >= 2 then
          free_unique(m, call('HGET', JOBS, m))
        end
        over[#over + 1] = m
        if letter == 'k' then
          call('SET', P .. 'r:' .. m, item.blob, 'PX', 3600000)
        end
      end
    end
  end
  if #drop > 0 then
    call('HDEL', RUN, unpack(drop))
  end
  forget(over)
  give_back(lanes, suspects)
  push_ready(tail)
  return table.concat(codes), next(lanes) ~= nil or next(tail) ~= nil, #suspects > 0
end
