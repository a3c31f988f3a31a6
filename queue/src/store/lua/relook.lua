-- After a limit of each tenant changed: lets the next tick look at the lanes that wait for such a limit. A bounded step.
-- ARGV 3 what the ids begin with, 4 cursor ('0' at first). Returns the next cursor; '0' at the end.
local now, head = now_ms(), ARGV[3]
local found = call('ZSCAN', DUE, ARGV[4], 'COUNT', 500)
for i = 1, #found[2], 2 do
  if sub(found[2][i], 1, #head) == head then
    call('ZADD', DUE, 'XX', 'LT', now, found[2][i])
  end
end
return found[1]
