-- A page of the ready jobs of one lane, in the order in which they are claimed. ARGV 3 the lane, or '' for the suspects;
-- 4, 5 index and member of the last one seen, or 0 and ''; 6 most jobs to look at (200); 7 kind or '', 8 '=' and tenant or ''.
-- Returns { 'p', index, member of the last that was looked at, or '' at the end; what holds the lane back; how many were looked
--   at; m, index, envelope without args, mut, ... }
--   or { 's', index }: the last one seen was not found among 1000 places, call again from this index.
local key = ARGV[3] == '' and SUSPECT or LANE .. ARGV[3]
local index, anchor, limit = number(4), ARGV[5], at_most(200, 6)
if anchor ~= '' then
  -- Claims since then took jobs from before it; only what came back to the head can have moved it the other way.
  local from, found = math.max(0, index - 1000), nil
  local window = call('LRANGE', key, from, index + 100)
  for i = #window, 1, -1 do
    if window[i] == anchor then
      found = from + i
      break
    end
  end
  if not found and from > 0 then
    return { 's', from }
  end
  -- If it is gone, so is all that stood before it: what is left was not seen.
  index = found or 0
end
local members = call('LRANGE', key, index, index + limit - 1)
local items, examined, read = {}, 0, 0
for i = 1, #members do
  local m = members[i]
  local envelope = call('HGET', JOBS, m)
  -- A cancelled job leaves its place behind until it would be claimed.
  if envelope then
    read = read + #envelope
    local lane = #envelope > 16 and lane_of(envelope) or ''
    if is_wanted(lane, ARGV[7], ARGV[8]) then
      items[#items + 1], items[#items + 2], items[#items + 3], items[#items + 4] =
        m, index + i - 1, head_of(envelope), call('HGET', MUT, m) or ''
    end
  end
  examined = i
  if read > BUDGET then
    break
  end
end
local is_end = examined == #members and #members < limit
return {
  'p', index + examined - 1, is_end and '' or members[examined], ARGV[3] == '' and '' or held_by(ARGV[3], now_ms()), examined, items,
}
