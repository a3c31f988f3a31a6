-- In front of what a running job writes about itself. KEYS 31 s:<sid>, 32 run:<sid>. ARGV 3 m, 4 claim_no8.
local m = ARGV[3]

-- The envelope of the job, if this very claim of a session that lives still holds it. A doomed session's jobs may still stand
-- in its `run` for a moment: it holds nothing any more.
local function held()
  local entry = call('EXISTS', KEYS[31]) == 1 and call('HGET', KEYS[32], m)
  return entry and sub(entry, 1, 8) == ARGV[4] and call('HGET', JOBS, m)
end
