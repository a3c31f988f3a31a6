-- Forgets journaled poison that the scheduler has moved to `job_closed`. ARGV 3 number; then the members.
-- Returns how many were waiting.
local members = {}
for i = 1, tonumber(ARGV[3]) do
  members[i] = ARGV[3 + i]
end
local removed = call('ZREM', TOBURY, unpack(members))
forget(members)
return removed
