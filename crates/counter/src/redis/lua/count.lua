-- Adds to a counter, at most once per idempotency key.
local target, counter, by = ARGV[12], ARGV[13], tonumber(ARGV[14])
if is_muted() then
  return { 'muted' }
end
local seen, before = idem_check(IDEM, BODY_HASH)
if seen == 'other' then
  return { 'key_reused' }
elseif seen == 'same' then
  return { 'ok', before }
end
local slot = counter_open(target, counter)
if slot.refused then
  return { 'too_many', slot.refused }
elseif slot.value + by > MAX_VALUE then
  return { 'too_many', 'value' }
end
local value, version = counter_add(slot, by, now_ms())
change_append('count', '{"target":"' .. target .. '","counter":"' .. counter .. '","by":' .. ARGV[14] .. ',"value":' .. value .. ',"version":' .. version .. '}')
local reply = value .. ' ' .. version
idem_store(IDEM, BODY_HASH, reply, IDEMS)
room_touch()
return { 'ok', reply }
