-- Makes a token known under which a running job is to be called back. ARGV 5 digest16.
-- Returns 1; or 0 if the job is not held, or the token is another job's.
local digest = ARGV[5]
if #digest ~= 16 then
  error('a digest has 16 bytes')
end
local owner, wait = call('HGET', TOK, digest), call('HGET', CB, m)
if not held() or (owner and owner ~= m) then
  return 0
end
-- The same request once more: what came under this token meanwhile stays.
if owner then
  return 1
end
if wait then
  call('HDEL', TOK, sub(wait, 2, 17))
end
call('HSET', TOK, digest, m)
call('HSET', CB, m, 'w' .. digest)
return 1
