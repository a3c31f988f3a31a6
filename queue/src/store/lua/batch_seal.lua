-- Seals a batch: it takes no more members, and its follow-up is ready when all of them are final. ARGV 3 batch16.
-- Returns 1, or 0 if there is no such batch.
local now, key = now_ms(), P .. 'b:' .. ARGV[3]
local batch = call('HMGET', key, 'm', 'sealed')
if not batch[1] then
  return 0
end
if not batch[2] then
  call('HSET', key, 'sealed', '1')
  call('PERSIST', key)
  fire(ARGV[3], now)
end
return 1
