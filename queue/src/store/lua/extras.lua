-- What waits for the next attempt of a job. ARGV 3 m. Returns { checkpoint or false, wait for a callback or false }.
-- An answer that was read once does not end another park: it is marked as seen.
local wait = call('HGET', CB, ARGV[3])
local checkpoint = call('HGET', CKPT, ARGV[3])
if wait and byte(wait, 1) == 112 then
  wait = 's' .. sub(wait, 2)
  call('HSET', CB, ARGV[3], wait)
end
return { checkpoint, wait }
