-- Opens a batch. ARGV 3 batch16, 4 m of the follow-up, 5 part of its envelope, 6 most jobs that the queue may hold.
-- Returns '+' opened, 'f' the queue is full, 'm' no memory; or the 16 bytes of the follow-up of the batch that stands.
local key, most = P .. 'b:' .. ARGV[3], number(6)
local stands = call('HGET', key, 'm')
if stands then
  return stands
end
if call('HGET', META, 'gate') == '1' then
  return 'm'
end
if read_usage(call('HGET', USE, '\0')) >= most then
  return 'f'
end
call('HSET', key, 'm', ARGV[4], 'part', ARGV[5])
-- Until it is sealed: a producer that went away leaves nothing for ever.
call('PEXPIRE', key, 604800000)
return '+'
