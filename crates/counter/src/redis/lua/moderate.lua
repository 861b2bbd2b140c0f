-- Decides about a pending comment: once, by whoever names the version that stands. Only an approval is seen: then the
-- comment's event and count appear in this step, as they would have at once where nobody moderates.
local QUEUE, PLACES = KEYS[10], KEYS[11]
local id, approve, version = ARGV[12], ARGV[13] == 'approve', ARGV[14]
local state, current, author = string.match(redis.call('HGET', STATES, id) or '', '^(%a+) (%d+) (.*)$')
if not state then
  return { 'not_found' }
elseif state ~= 'pending' or current ~= version then
  return { 'conflict', state, current }
end
local body = redis.call('HGET', BODIES, id)
local comment = cjson.decode(body)
local slot = counter_open(comment.target, 'comment')
if approve and slot.refused then
  return { 'too_many', slot.refused }
end
local now = now_ms()
local after = int_text(tonumber(current) + 1)
redis.call('HSET', STATES, id, (approve and 'approved ' or 'rejected ') .. after .. ' ' .. author)
redis.call('ZREM', QUEUE, id)
if approve then
  local fields = string.sub(body, 2, -2) .. ',"version":' .. after
  local epoch, offset = event('comment', cjson.encode(comment.user), fields, now)
  redis.call('HSET', PLACES, id, epoch .. ' ' .. offset)
  redis.call('PEXPIRE', PLACES, ROOM_TTL)
  counter_add(slot, 1, now)
else
  redis.call('ZREM', INDEX, '*' .. id, comment.target .. ' ' .. id)
end
room_touch()
redis.call('PEXPIRE', QUEUE, ROOM_TTL)
return { 'ok', approve and 'approved' or 'rejected', after }
