-- Where a job is. ARGV 3 m. Returns { state, envelope, mut, errors, extra }, or an empty list if Redis does not know it.
--   state ready, scheduled (extra: due in ms), running (extra: sid), dead (envelope is the whole record; extra: since),
--   completed (extra: the result that was kept), poison (journaled; waits to be moved to job_closed)
local m = ARGV[3]
local result = call('GET', P .. 'r:' .. m)
if result then
  return { 'completed', '', '', '', result }
end
local record = call('HGET', DEADREC, m)
if record then
  return { 'dead', record, '', '', call('ZSCORE', DEAD, m) or '0' }
end
local envelope = call('HGET', JOBS, m)
if not envelope then
  return {}
end
local mut, errors = call('HGET', MUT, m) or '', call('HGET', ERR, m) or ''
local due = call('ZSCORE', SCHED, m)
if due then
  return { 'scheduled', envelope, mut, errors, due }
end
if call('ZSCORE', TOBURY, m) then
  return { 'poison', envelope, mut, errors, '' }
end
local sessions = call('ZRANGE', SESS, 0, 999)
for i = 1, #sessions do
  if call('HEXISTS', P .. 'run:' .. sessions[i], m) == 1 then
    return { 'running', envelope, mut, errors, sessions[i] }
  end
end
return { 'ready', envelope, mut, errors, '' }
