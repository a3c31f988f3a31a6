-- The plainest enqueue. KEYS ready list, jobs hash. ARGV id, envelope, id, envelope, ...
redis.call('HSET', KEYS[2], unpack(ARGV))
local ids = {}
for i = 1, #ARGV, 2 do
  ids[#ids + 1] = ARGV[i]
end
return redis.call('RPUSH', KEYS[1], unpack(ids))
