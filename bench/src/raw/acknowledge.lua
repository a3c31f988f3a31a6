-- The plainest acknowledgement. KEYS jobs hash, leases zset. ARGV ids.
redis.call('HDEL', KEYS[1], unpack(ARGV))
return redis.call('ZREM', KEYS[2], unpack(ARGV))
