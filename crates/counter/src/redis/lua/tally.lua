-- All counters and all items of a room, as they are after expired holds were taken back.
holds_expire(now_ms(), 1000)
return redis.call('HGETALL', COUNTS), redis.call('HGETALL', ITEMS)
