-- A part of the jobs that a session runs. ARGV 3 the session; 4 where to go on (0 at first); 5 kind or '', 6 '=' and tenant or ''.
-- Returns { where to go on, or 0 at the end; m, entry, mut, progress (done6 total6), '1' if it is to stop, ... }
local found = call('HSCAN', P .. 'run:' .. ARGV[3], number(4), 'COUNT', 100)
local items, has_progress, has_cancelled = {}, call('EXISTS', PROG) == 1, call('EXISTS', CANCEL) == 1
for i = 1, #found[2], 2 do
  local m, entry = found[2][i], found[2][i + 1]
  local lane = #entry > 20 and sub(entry, 21, 20 + byte(entry, 16)) or ''
  if is_wanted(lane, ARGV[5], ARGV[6]) then
    local at = #items
    items[at + 1], items[at + 2], items[at + 3] = m, entry, call('HGET', MUT, m) or ''
    items[at + 4] = has_progress and call('HGET', PROG, m) or ''
    items[at + 5] = has_cancelled and call('HEXISTS', CANCEL, m) or 0
  end
end
return { found[1], items }
