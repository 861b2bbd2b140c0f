-- Removes a room's counters and comments, and a bounded number of its idempotency records.
-- Returns how many records are left, for the caller to call again. KEYS[1] lists the records.
local IDEMS, CHUNK = KEYS[1], 1000
redis.call('UNLINK', unpack(KEYS, 2))
local records = redis.call('ZRANGE', IDEMS, 0, CHUNK - 1)
if #records > 0 then
  redis.call('UNLINK', unpack(records))
  redis.call('ZREM', IDEMS, unpack(records))
end
return redis.call('ZCARD', IDEMS)
