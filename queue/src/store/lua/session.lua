-- What finish_claim and sync share: applying outcomes, and giving jobs back.
--
-- An outcome is m, token (claim_no8 and a letter), and for the letters r s p b k j also delay_ms and blob:
--   c complete, k complete and keep the result (blob) for an hour, x cancelled, j cancelled and keep, g gone (its journal row is)
--   r retry after delay (blob: attempt4 and the error's line), s snooze for delay, l release, p park for delay at most
--   b bury (blob: the error's line, as the reason); a journaled job was moved in Postgres first, and is forgotten here
-- Codes: 'a' applied, '-' applied before (it is no longer held), 'n' not yours (claimed again since).
local S, RUN = KEYS[31], KEYS[32]

-- The entry must be exactly the claim that this outcome speaks of: a job that went back and was claimed again by this very
-- session has another claim number.
local function owned(entry, token)
  return entry and sub(entry, 1, 8) == sub(token, 1, 8)
end

-- What stands for a claimed job; `claim` is its claim number and time.
local function entry_of(claim, flags, lane, size)
  local entry = claim .. string.char(flags, #lane) .. struct.pack('>I4', size) .. lane
  if #entry < 65 then
    entry = entry .. string.rep('.', 65 - #entry)
  end
  return entry
end

local function lane_in(entry)
  return sub(entry, 21, 20 + byte(entry, 16))
end

local function size_in(entry)
  return (struct.unpack('>I4', entry, 17))
end

-- What a request's finished jobs come to, collected and settled once: usage by tenant, limits, batches, recent jobs.
local MOST_RECENT = 8

local function new_ledger(limited)
  return { use = {}, freed = {}, batches = {}, recent = {}, limited = limited }
end

-- A job that no longer stands.
local function leaves(ledger, m, letter, entry, lane, now)
  add_usage(ledger.use, tenant_of(lane), -1, -size_in(entry))
  if #ledger.recent < MOST_RECENT then
    ledger.recent[#ledger.recent + 1] = letter .. ms6(now) .. sub(entry, 9, 14) .. string.char(#m) .. m .. lane
  end
end

-- Returns whether a lane that waited for a limit came in.
local function settle(ledger, now)
  settle_usage(ledger.use)
  if #ledger.recent > 0 then
    call('LPUSH', FIN, unpack(ledger.recent))
    call('LTRIM', FIN, 0, 999)
  end
  settle_batches(ledger.batches, now)
  return settle_limits(ledger.freed)
end

-- Completes plainly: `members` with the claim numbers `claims`. Nearly all outcomes are of this kind, so it is spared every
-- table and string that it can do without. `done` is told which jobs are over. Returns the codes.
local function complete(members, claims, entries, done, now, ledger)
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
      local lane, flags = lane_in(entry), byte(entry, 15)
      leaves(ledger, m, 'c', entry, lane, now)
      -- Unique key or batch.
      if flags % 8 >= 2 then
        local envelope = call('HGET', JOBS, m)
        free_unique(m, envelope)
        tally(ledger.batches, envelope, 'c')
      end
      if ledger.limited then
        stop_counting(ledger.freed, lane, m)
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

local OPERANDS = {
  c = false, x = false, g = false, l = false, r = true, s = true, p = true, b = true, k = true, j = true,
}

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

-- The unique key of a job that goes back stands for one that waits, not for one that runs.
local function no_longer_runs(m, flags)
  if has(flags, 2) and not has(flags, 8) and not has(flags, 16) then
    local envelope = call('HGET', JOBS, m)
    local digest = envelope and unique_of(envelope)
    if digest and call('HGET', UQ, digest) == m .. 'r' then
      call('HSET', UQ, digest, m)
    end
  end
end

-- Where a claimed job goes back to: a suspect stays among the suspects.
local function back_to(lanes, suspects, m, entry)
  no_longer_runs(m, byte(entry, 15))
  if byte(entry, 15) >= 128 then
    suspects[#suspects + 1] = m
  else
    add_to(lanes, lane_in(entry), m)
  end
end

-- Gives jobs back to the heads that they came from. Returns whether a claim could have any of those in lanes.
local function give_back(lanes, suspects)
  local back = push_back(lanes)
  if #suspects > 0 then
    call('LPUSH', SUSPECT, unpack(suspects))
  end
  return back
end

-- Whether its callback came while it still ran.
local function came(m)
  local wait = call('HGET', CB, m)
  return wait and byte(wait, 1) == 112
end

-- Applies at most 500 outcomes, of which those in `done` were applied before. Returns their codes, whether any job
-- is in its lane again, and whether a suspect is among the suspects again.
local function apply(items, entries, now, dead_cap, done, ledger)
  local codes, drop, over, lanes, suspects, tail = {}, {}, {}, {}, {}, {}
  local suspect = call('HGET', S, 'suspect')
  local cancelling = call('EXISTS', CANCEL) == 1
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
      local flags, lane = byte(entry, 15), lane_in(entry)
      if m == suspect then
        call('HDEL', S, 'suspect')
      end
      if ledger.limited then
        stop_counting(ledger.freed, lane, m)
      end
      -- One that somebody cancelled does not come back, whatever its attempt came to. Of a journaled job's end Postgres has decided.
      if cancelling and (string.find('rslp', letter, 1, true) or letter == 'b' and #m == 16) and call('HEXISTS', CANCEL, m) == 1 then
        letter = 'x'
      end
      if letter == 'l' then
        back_to(lanes, suspects, m, entry)
      elseif letter == 'r' or letter == 's' or letter == 'p' then
        no_longer_runs(m, flags)
        -- Having come to an outcome, it has not killed its process: its rescues are forgotten.
        local old = call('HGET', MUT, m)
        local attempt, extras = old and sub(old, 1, 4) or '\0\0\0\0', old and byte(old, 12) or 0
        if letter == 'r' then
          attempt = sub(item.blob, 1, 4)
          note_error(m, sub(item.blob, 5))
        end
        local due, waits = math.min(now + math.max(item.delay, 0), FAR), SCHED
        if letter == 'p' then
          extras = extras % 2 + 2
          if came(m) then
            due = now
          else
            due, waits = math.max(due, now + 1), PARKED
          end
        end
        call('HSET', MUT, m, attempt .. '\0' .. ms6(due) .. (extras > 0 and string.char(extras) or ''))
        if due > now then
          call('ZADD', waits, due, m)
        else
          add_to(tail, lane, m)
        end
      elseif letter == 'b' and #m == 16 then
        leaves({ use = {}, recent = ledger.recent }, m, letter, entry, lane, now)
        note_error(m, item.blob)
        bury(m, now, item.blob, dead_cap)
      else
        leaves(ledger, m, letter, entry, lane, now)
        if flags % 8 >= 2 then
          local envelope = call('HGET', JOBS, m)
          free_unique(m, envelope)
          tally(ledger.batches, envelope, (letter == 'c' or letter == 'k') and 'c' or letter == 'b' and 'd' or 'x')
        end
        over[#over + 1] = m
        if letter == 'k' or letter == 'j' then
          -- Who asks for it knows the id, but not the generation in which a journaled job came to its end: the first one's place.
          call('SET', P .. 'r:' .. (#m > 16 and sub(m, 1, 16) .. '\0\0\0\1' or m), item.blob, 'PX', 3600000)
        end
      end
    end
  end
  if #drop > 0 then
    call('HDEL', RUN, unpack(drop))
  end
  forget(over)
  local back = give_back(lanes, suspects)
  back = push_ready(tail) or back
  return table.concat(codes), back, #suspects > 0
end
