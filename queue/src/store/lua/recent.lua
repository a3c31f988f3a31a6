-- Jobs that finished lately, newest first. ARGV 3 how many (at most 1000, which is all that is kept).
-- Returns { entry, ... }
return call('LRANGE', FIN, 0, at_most(1000, 3) - 1)
