-- Brings a dead fast job back as ready, under a new id. ARGV 3 m, 4 the new m. Returns 1, or 0 if it is not dead.
local now = now_ms()
local record = call('HGET', DEADREC, ARGV[3])
if not record or call('HEXISTS', JOBS, ARGV[4]) == 1 then
  return 0
end
local length = struct.unpack('>I4', record)
local envelope = ms6(now) .. ms6(now) .. sub(record, 17, 4 + length)
call('HDEL', DEADREC, ARGV[3])
call('ZREM', DEAD, ARGV[3])
call('HSET', JOBS, ARGV[4], envelope)
push_ready({ [lane_of(envelope)] = { ARGV[4] } }, 'RPUSH')
wake()
return 1
