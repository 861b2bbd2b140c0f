-- Stores a comment once per idempotency key. A visible one is an event of the room's log and counts, in this step;
-- a pending one is stored and seen by nobody yet. BODIES holds what never changes, STATES
-- `<state> <version> <user>`, INDEX (all scores 0) the order: `*<id>` in the room, `<target> <id>` per target.
local target, user, user_json, text_json = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local pending = ARGV[11] == '1'
local epoch_candidate, history_size, history_ttl = ARGV[12], ARGV[13], ARGV[14]
local seen, before = idem_check(IDEM, BODY_HASH)
if seen == 'other' then
  return { 'key_reused' }
elseif seen == 'same' then
  return { 'ok', before }
end
if redis.call('HLEN', BODIES) >= MAX_COMMENTS then
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
local id = string.format('%016.0f', newest and math.max(tonumber(string.sub(newest, 2)) + 1, now) or now)
local fields = '"comment":"' .. id .. '","target":"' .. target .. '","text":' .. text_json .. ',"user":' .. user_json .. ',"at":' .. at

redis.call('HSET', BODIES, id, '{' .. fields .. '}')
redis.call('HSET', STATES, id, (pending and 'pending' or 'visible') .. ' 1 ' .. user)
redis.call('ZADD', INDEX, 0, '*' .. id, 0, target .. ' ' .. id)
change_append('comment', '{' .. fields .. ',"state":"' .. (pending and 'pending' or 'visible') .. '","version":1}')
if not pending then
  local body = '{"event":"comment","from":' .. user_json .. ',"data":{' .. fields .. ',"version":1}}'
  log_append(META, LOG, CHANNEL, epoch_candidate, history_size, history_ttl, body, now)
  counter_add(slot, 1, now)
end
local reply = id .. ' ' .. (pending and '1' or '0') .. ' 1 ' .. at
idem_store(IDEM, BODY_HASH, reply, IDEMS)
room_touch()
return { 'ok', reply }
