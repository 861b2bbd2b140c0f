-- Adds to a counter, at most once per idempotency key.
local target, counter, by = ARGV[7], ARGV[8], tonumber(ARGV[9])
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
change_append('count', '{"target":"' .. target .. '","counter":"' .. counter .. '","by":' .. ARGV[9] .. ',"value":' .. value .. ',"version":' .. version .. '}')
local reply = value .. ' ' .. version
idem_store(IDEM, BODY_HASH, reply, IDEMS)
room_touch()
return { 'ok', reply }
