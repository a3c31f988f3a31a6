-- Changes what limits a scope of the queue, or pauses it.
-- ARGV 3 scope (as in `lim`), 4 what: p pause, r resume, s set, c clear; 5 for s the limit: concurrency4 interval_us6 burst4, and
--   behind that whatever is for people; 6 how many scopes may have limits.
-- Returns 'ok'; 'same' if it was so already; 'full' if there are too many.
local now = now_ms()
local scope, what, limit, most = ARGV[3], ARGV[4], ARGV[5], number(6)
if what == 's' and #limit < 14 then
  error('a limit has 14 bytes at least')
end
local NO_LIMIT = '\255\255\255\255\0\0\0\0\0\0\0\0\0\0'
if scope == 'q' and (what == 'p' or what == 'r') then
  if what == 'p' then
    if call('HSET', META, 'paused', '1') == 0 then
      return 'same'
    end
    call('DEL', WAKE)
    return 'ok'
  end
  return call('HDEL', META, 'paused') == 1 and 'ok' or 'same'
end

local old = call('HGET', LIM, scope)
local flags, body = old and byte(old, 1) or 0, old and sub(old, 2) or NO_LIMIT
if what == 'p' then
  flags = flags - flags % 2 + 1
elseif what == 'r' then
  flags = flags - flags % 2
elseif what == 's' then
  body = limit
elseif what == 'c' then
  body = NO_LIMIT
else
  error('what is to be done with the limit is not known')
end
local is_empty = flags == 0 and body == NO_LIMIT
local new = not is_empty and string.char(flags) .. body
if new == old then
  return 'same'
end
if new and not old and call('HLEN', LIM) >= most then
  return 'full'
end
if new then
  call('HSET', LIM, scope, new)
else
  call('HDEL', LIM, scope)
end
-- From now on claims look at limits, and jobs that run are counted anew: which of them count may have changed for many ids. When
-- no limit is left, the end of that count turns the looking off.
call('HSET', META, 'limited', '1', 'recount', '0')
-- Lanes that wait for this very id are looked at by the next tick; those of each tenant are found by relook.lua.
call('ZADD', DUE, 'XX', now, scope)
return 'ok'
