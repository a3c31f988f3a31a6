-- A part of the lanes that have ready jobs. ARGV 3 where to go on (0 at first); 4 kind or '', 5 '=' and tenant or ''.
-- Returns { where to go on, or 0 at the end; lane, its length, ... }
local found = call('HSCAN', ACT, number(3), 'COUNT', 200)
local lanes = {}
for i = 1, #found[2], 2 do
  local lane = found[2][i]
  if is_wanted(lane, ARGV[4], ARGV[5]) then
    lanes[#lanes + 1], lanes[#lanes + 2] = lane, call('LLEN', LANE .. lane)
  end
end
return { found[1], lanes }
