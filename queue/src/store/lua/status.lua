-- Where a job is. ARGV 3 m; 4 where to go on among the sessions (0 at first).
-- Returns { state, envelope, mut, errors, extra, progress (done6 total6), '1' if it is to stop }, or an empty list if Redis does
-- not know it.
--   state ready (extra: what holds its lane back), scheduled (extra: due in ms), parked (extra: deadline in ms), running
--   (extra: sid and claimed6), dead (envelope is the whole record; extra: since), completed (extra: the result that was kept),
--   poison (journaled; waits to be moved to job_closed), more (extra: it may run; call again from there)
local m = ARGV[3]
local result = call('GET', P .. 'r:' .. m)
if result then
  return { 'completed', '', '', '', result, '', 0 }
end
local record = call('HGET', DEADREC, m)
if record then
  return { 'dead', record, '', '', call('ZSCORE', DEAD, m) or '0', '', 0 }
end
local envelope = call('HGET', JOBS, m)
if not envelope then
  return {}
end
local mut, errors, progress = call('HGET', MUT, m) or '', call('HGET', ERR, m) or '', call('HGET', PROG, m) or ''
local function answer(state, extra)
  return { state, envelope, mut, errors, extra, progress, call('HEXISTS', CANCEL, m) }
end
local due = call('ZSCORE', SCHED, m)
if due then
  return answer('scheduled', due)
end
local deadline = call('ZSCORE', PARKED, m)
if deadline then
  return answer('parked', deadline)
end
if call('ZSCORE', TOBURY, m) then
  return answer('poison', '')
end
local sessions = call('ZSCAN', SESS, number(4), 'COUNT', 1000)
for i = 1, #sessions[2], 2 do
  local entry = call('HGET', P .. 'run:' .. sessions[2][i], m)
  if entry then
    return answer('running', sub(entry, 9, 14) .. sessions[2][i])
  end
end
if sessions[1] ~= '0' then
  return answer('more', sessions[1])
end
return answer('ready', #envelope > 16 and held_by(lane_of(envelope), now_ms()) or '')
