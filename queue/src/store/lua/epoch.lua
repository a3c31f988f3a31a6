-- Begins and ends the healing of a queue.
-- ARGV 3 the token of the pass, 4 '' to begin it; to end it the new epoch, 5 the beat that Postgres remembers, 6 its timeline or ''.
-- Returns { 1, the beat that stands, run_id of this server }, or { 0, 0, '' } if this Redis knows nothing of the pass: it was
-- wiped or rolled back since, and what the pass put back may be gone.
local token, epoch, beat, timeline = ARGV[3], ARGV[4], number(5), ARGV[6]
local meta = call('HMGET', META, 'heal', 'beat')
local run_id = string.match(call('INFO', 'server'), 'run_id:(%w+)') or ''
if epoch == '' then
  call('HSET', META, 'heal', token)
  return { 1, tonumber(meta[2] or 0), run_id }
end
if meta[1] ~= token then
  return { 0, 0, '' }
end
-- Beats go on rising over epochs: which of two stores is the older one shows even if their epochs differ.
local next_beat = math.max(tonumber(meta[2] or 0), beat) + 1
call('HSET', META, 'epoch', epoch, 'beat', string.format('%.0f', next_beat), 'timeline', timeline)
call('HDEL', META, 'heal')
return { 1, next_beat, run_id }
