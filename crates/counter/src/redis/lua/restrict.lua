-- Keeps a mute or ban, or takes it back, in a list: KEYS[1] HASH what -> when it ends. A full list first drops what
-- is over. Returns when it ends ('0' where it was taken back).
local LIST, what, lasts, max = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if lasts == 0 then
  redis.call('HDEL', LIST, what)
  return { 'ok', '0' }
end
local now = now_ms()
if redis.call('HLEN', LIST) >= max and redis.call('HEXISTS', LIST, what) == 0 then
  local all = redis.call('HGETALL', LIST)
  for i = 1, #all, 2 do
    if tonumber(all[i + 1]) <= now then
      redis.call('HDEL', LIST, all[i])
    end
  end
  if redis.call('HLEN', LIST) >= max then
    return { 'too_many', 'restrictions' }
  end
end
local ends = int_text(now + lasts)
redis.call('HSET', LIST, what, ends)
-- The list lives as long as the longest of them.
if redis.call('PTTL', LIST) < lasts then
  redis.call('PEXPIRE', LIST, int_text(lasts))
end
return { 'ok', ends }
