-- For scripts that leave something for a job's next attempt.

-- Notes in `mut` that there is something beside the envelope: 1 a checkpoint, 2 the end of a wait. With `ready`, the job became
-- ready now.
local function note_extras(m, envelope, bit, ready)
  local old = call('HGET', MUT, m)
  local extras = old and byte(old, 12) or 0
  if not has(extras, bit) then
    extras = extras + bit
  end
  local since = ready and ms6(ready) or old and sub(old, 6, 11) or sub(envelope, 7, 12)
  call('HSET', MUT, m, (old and sub(old, 1, 5) or '\0\0\0\0\0') .. since .. string.char(extras))
end
