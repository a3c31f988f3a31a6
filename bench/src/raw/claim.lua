-- The plainest claim with a lease. KEYS ready list, jobs hash, leases zset. ARGV want, deadline.
local ids = redis.call('LPOP', KEYS[1], ARGV[1])
if not ids then
  return { {}, {} }
end
local leases = {}
for i = 1, #ids do
  leases[2 * i - 1], leases[2 * i] = ARGV[2], ids[i]
end
redis.call('ZADD', KEYS[3], unpack(leases))
return { ids, redis.call('HMGET', KEYS[2], unpack(ids)) }
