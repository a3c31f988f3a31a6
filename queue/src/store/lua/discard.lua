-- Removes a dead fast job for good. ARGV 3 m. Returns 1, or 0 if it is not dead.
call('ZREM', DEAD, ARGV[3])
return call('HDEL', DEADREC, ARGV[3])
