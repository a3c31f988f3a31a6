-- A part of what standing jobs weigh, by tenant. ARGV 3 where to go on (0 at first).
-- Returns { where to go on, or 0 at the end; tenant, count4 bytes6, ... }
local found = call('HSCAN', USE, number(3), 'COUNT', 200)
return { found[1], found[2] }
