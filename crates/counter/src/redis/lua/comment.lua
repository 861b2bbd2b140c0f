-- Stores a comment once per idempotency key. A visible one is an event of the room's log and counts, in this step;
-- a pending one is stored and seen by nobody yet. BODIES holds what never changes, STATES
-- `<state> <version> <user>`, INDEX (all scores 0) the order: `*<id>` in the room, `<target> <id>` per target.
-- QUEUE (all scores 0) holds the ids that wait, PLACES where in the log the visible ones are: `<epoch> <offset>`.
local QUEUE, PLACES = KEYS[10], KEYS[11]
local target, text_json, pending = ARGV[12], ARGV[13], ARGV[14] == '1'
if is_muted() then
  return { 'muted' }
end
local seen, before = idem_check(IDEM, BODY_HASH)
if seen == 'other' then
  return { 'key_reused' }
elseif seen == 'same' then
  return { 'ok', before }
end
if redis.call('HLEN', STATES) >= MAX_COMMENTS then
  return { 'too_many', 'comments' }
end
local slot = counter_open(target, 'comment')
if slot.refused and not pending then
  return { 'too_many', slot.refused }
end

-- Ids follow the clock but always rise, so they stay unique after a loss of data, and newest first is their order.
local now = now_ms()
local at = int_text(now)
local newest = redis.call('ZREVRANGEBYLEX', INDEX, '[*~', '[*', 'LIMIT', 0, 1)[1]
local next_id = newest and math.max(tonumber(string.sub(newest, 2)) + 1, now) or now
local id = string.format('%016.0f', next_id)
-- What is rejected or deleted is not in INDEX any more, but keeps its id.
while redis.call('HEXISTS', STATES, id) == 1 do
  next_id = next_id + 1
  id = string.format('%016.0f', next_id)
end
local fields = '"comment":"' .. id .. '","target":"' .. target .. '","text":' .. text_json .. ',"user":' .. USER_JSON .. ',"at":' .. at

redis.call('HSET', BODIES, id, '{' .. fields .. '}')
redis.call('HSET', STATES, id, (pending and 'pending' or 'visible') .. ' 1 ' .. USER)
redis.call('ZADD', INDEX, 0, '*' .. id, 0, target .. ' ' .. id)
change_append('comment', '{' .. fields .. ',"state":"' .. (pending and 'pending' or 'visible') .. '","version":1}')
if pending then
  redis.call('ZADD', QUEUE, 0, id)
else
  local epoch, offset = event('comment', USER_JSON, fields .. ',"version":1', now)
  redis.call('HSET', PLACES, id, epoch .. ' ' .. offset)
  counter_add(slot, 1, now)
end
for _, key in ipairs({ QUEUE, PLACES }) do
  redis.call('PEXPIRE', key, ROOM_TTL)
end
local reply = id .. ' ' .. (pending and '1' or '0') .. ' 1 ' .. at
idem_store(IDEM, BODY_HASH, reply, IDEMS)
room_touch()
return { 'ok', reply }
