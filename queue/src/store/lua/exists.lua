-- Which members Redis holds. ARGV 3 number (at most 2000); then the members. Returns a string of 0 and 1.
local found = {}
for i = 1, tonumber(ARGV[3]) do
  found[i] = call('HEXISTS', JOBS, ARGV[3 + i])
end
return table.concat(found)
