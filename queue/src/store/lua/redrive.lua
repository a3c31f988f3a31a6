-- Brings a dead fast job back as ready, under a new id. ARGV 3 m, 4 the new m.
-- Returns 1, or 0 if it is not dead; or the id of another job that stands for its unique key: then it stays dead.
local now = now_ms()
local m, new = ARGV[3], ARGV[4]
local record = call('HGET', DEADREC, m)
if not record or call('HEXISTS', JOBS, new) == 1 then
  return 0
end
local length = struct.unpack('>I4', record)
local envelope = ms6(now) .. ms6(now) .. sub(record, 17, 4 + length)
local digest = unique_of(envelope)
local stands = digest and call('HGET', UQ, digest)
if stands then
  return sub(stands, 1, 16)
end
call('HDEL', DEADREC, m)
call('ZREM', DEAD, m)
call('HSET', JOBS, new, envelope)
if digest then
  call('HSET', UQ, digest, new)
end
push_ready({ [lane_of(envelope)] = { new } })
wake()
return 1
