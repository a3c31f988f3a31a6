-- A part of the sessions. ARGV 3 where to go on (0 at first).
-- Returns { now, where to go on, or 0 at the end; { sid, deadline, jobs that it runs, slots, info, whether it is alive, ... } }
local found = call('ZSCAN', SESS, number(3), 'COUNT', 100)
local items = {}
for i = 1, #found[2], 2 do
  local sid, at = found[2][i], #items
  local fields = call('HMGET', P .. 's:' .. sid, 'slots', 'info', 'n')
  items[at + 1], items[at + 2], items[at + 3] = sid, found[2][i + 1], call('HLEN', P .. 'run:' .. sid)
  items[at + 4], items[at + 5], items[at + 6] = fields[1] or '', fields[2] or '', fields[3] and 1 or 0
end
return { now_ms(), found[1], items }
