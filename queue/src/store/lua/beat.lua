-- Raises the beat of the queue, if Postgres remembers the epoch and beat that stand here, and says what does.
-- ARGV 3 the epoch that Postgres remembers, or '', 4 its beat.
-- Returns { epoch or '', beat, timeline of Postgres or '', run_id of this server }
local expected, beat = ARGV[3], number(4)
local meta = call('HMGET', META, 'epoch', 'beat', 'timeline')
local epoch, stands = meta[1] or '', tonumber(meta[2] or 0)
local run_id = string.match(call('INFO', 'server'), 'run_id:(%w+)') or ''
if epoch ~= '' and epoch == expected and stands == beat then
  stands = beat + 1
  call('HSET', META, 'beat', string.format('%.0f', stands))
end
return { epoch, stands, meta[3] or '', run_id }
