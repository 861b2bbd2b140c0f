-- One user's like of one target, on or off. The member of the set decides, so a retry changes nothing.
local target, on = ARGV[12], ARGV[13] == '1'
if is_muted() then
  return { 'muted' }
end
local slot, member = counter_open(target, 'like'), target .. ' ' .. USER
if (redis.call('SISMEMBER', LIKES, member) == 1) == on then
  return { 'ok', int_text(slot.value) .. ' ' .. int_text(slot.version) }
end
if slot.refused then
  return { 'too_many', slot.refused }
elseif on and redis.call('SCARD', LIKES) >= tonumber(ARGV[14]) then
  return { 'too_many', 'likes' }
end
local value, version = counter_add(slot, on and 1 or -1, now_ms())
redis.call(on and 'SADD' or 'SREM', LIKES, member)
change_append('like', '{"target":"' .. target .. '","user":' .. USER_JSON .. ',"on":' .. tostring(on) .. ',"value":' .. value .. ',"version":' .. version .. '}')
room_touch()
return { 'ok', value .. ' ' .. version }
