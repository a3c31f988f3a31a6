-- A page of the limits of a queue. ARGV 3 cursor ('0' at first).
-- Returns { next cursor ('0' at the end), 1 if the queue is paused, { scope, spec, running, lanes that wait, ... } }.
local found = call('HSCAN', LIM, ARGV[3], 'COUNT', 200)
local answer = {}
for i = 1, #found[2], 2 do
  local scope = found[2][i]
  answer[#answer + 1] = scope
  answer[#answer + 1] = found[2][i + 1]
  answer[#answer + 1] = call('HLEN', P .. 'c:' .. scope)
  answer[#answer + 1] = call('LLEN', P .. 'w:' .. scope)
end
return { found[1], call('HGET', META, 'paused') == '1' and 1 or 0, answer }
