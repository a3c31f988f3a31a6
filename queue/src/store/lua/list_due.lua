-- A page of the jobs that stand in the order of a time: scheduled (by due time), parked (by deadline), or dead (newest first).
-- ARGV 3 'scheduled', 'parked' or 'dead'; 4 most jobs to look at (200); 5, 6 score and member behind which the page begins, or
--   ''; 7, 8 lowest and highest score; 9 kind or '', 10 '=' and tenant or ''.
-- Returns { score, member of the last that was looked at, or '' at the end; how many were looked at;
--   { m, score, envelope without args, mut, reason (of the dead), ... } }
--   The envelope is empty where there is none, or where a dead job's record cannot be read.
local set = ({ scheduled = SCHED, parked = PARKED, dead = DEAD })[ARGV[3]] or error('argument 3 is no list')
local down, limit = ARGV[3] == 'dead', at_most(200, 4)

-- Byte by byte: Lua's own comparison goes by the language that the server runs in.
local function is_before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

-- How many entries stand before this place, and whether its entry is still there: the page goes on at the right place even if
-- the last one seen is gone.
local function rank_of(score, m)
  local stands = call('ZSCORE', set, m)
  if stands and tonumber(stands) == tonumber(score) then
    return call('ZRANK', set, m), true
  end
  local low, high = call('ZCOUNT', set, '-inf', '(' .. score), call('ZCOUNT', set, '-inf', score)
  while low < high do
    local middle = floor((low + high) / 2)
    if is_before(call('ZRANGE', set, middle, middle)[1], m) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low, false
end

local first, last = call('ZCOUNT', set, '-inf', '(' .. ARGV[7]), call('ZCOUNT', set, '-inf', ARGV[8]) - 1
if ARGV[5] ~= '' then
  local rank, stands = rank_of(ARGV[5], ARGV[6])
  if down then
    last = math.min(last, rank - 1)
  else
    first = math.max(first, rank + (stands and 1 or 0))
  end
end
local from, to = first, math.min(last, first + limit - 1)
if down then
  from, to = math.max(first, last - limit + 1), last
end
local entries = to >= from and call('ZRANGE', set, from, to, 'WITHSCORES') or {}

-- The fields of a dead job's record.
local function record_fields(record)
  local fields, at = {}, 1
  for i = 1, 4 do
    if #record < at + 3 then
      return
    end
    local length = struct.unpack('>I4', record, at)
    fields[i] = sub(record, at + 4, at + 3 + length)
    at = at + 4 + length
  end
  return fields
end

local items, examined, read, looked_score, looked_m = {}, 0, 0, '', ''
local count = #entries / 2
for i = 1, count do
  local j = 2 * (down and count + 1 - i or i)
  local m, score = entries[j - 1], entries[j]
  local envelope, mut, reason = '', '', ''
  if down then
    local record = call('HGET', DEADREC, m) or ''
    local fields = record_fields(record)
    read = read + #record
    if fields then
      envelope, mut, reason = fields[1], fields[2], fields[4]
    end
  else
    envelope, mut = call('HGET', JOBS, m) or '', call('HGET', MUT, m) or ''
    read = read + #envelope
  end
  if is_wanted(#envelope > 16 and lane_of(envelope) or '', ARGV[9], ARGV[10]) then
    local at = #items
    items[at + 1], items[at + 2], items[at + 3], items[at + 4], items[at + 5] = m, score, head_of(envelope), mut, reason
  end
  examined, looked_m, looked_score = i, m, score
  if read > BUDGET then
    break
  end
end
if examined >= last - first + 1 then
  looked_score, looked_m = '', ''
end
return { looked_score, looked_m, examined, items }
