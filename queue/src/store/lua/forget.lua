-- Forgets journaled poison that the scheduler has moved to `job_closed`. ARGV 3 number (at most 500); then the members.
-- Returns how many were waiting for it; others are left alone.
local members = {}
for i = 1, at_most(500, 3) do
  members[#members + 1] = ARGV[3 + i]
end
local waiting = {}
local scores = #members > 0 and call('ZMSCORE', TOBURY, unpack(members)) or {}
for i = 1, #members do
  if scores[i] then
    waiting[#waiting + 1] = members[i]
  end
end
if #waiting > 0 then
  local use = {}
  local envelopes = call('HMGET', JOBS, unpack(waiting))
  for i = 1, #waiting do
    if envelopes[i] then
      release_usage(use, envelopes[i])
    end
  end
  call('ZREM', TOBURY, unpack(waiting))
  forget(waiting)
  settle_usage(use)
end
return #waiting
