-- Removes some of a room's idempotency records. Answers how many are left, for the caller to come again.
local KEY_INDEX = KEYS[1]
local records = redis.call('ZRANGE', KEY_INDEX, 0, 999)
if #records > 0 then
  redis.call('UNLINK', unpack(records))
  redis.call('ZREM', KEY_INDEX, unpack(records))
end
return redis.call('ZCARD', KEY_INDEX)
