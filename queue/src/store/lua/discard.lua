-- Removes dead fast jobs for good. ARGV 3 how many (at most 500); then their members.
-- Returns a string of 0 (it was not dead) and 1.
local codes, members = {}, {}
for i = 1, at_most(500, 3) do
  members[i] = ARGV[3 + i]
end
if #members == 0 then
  return ''
end
local stood = call('ZMSCORE', DEAD, unpack(members))
local seen = {}
for i = 1, #members do
  codes[i] = stood[i] and not seen[members[i]] and '1' or '0'
  seen[members[i]] = true
end
call('ZREM', DEAD, unpack(members))
call('HDEL', DEADREC, unpack(members))
return table.concat(codes)
