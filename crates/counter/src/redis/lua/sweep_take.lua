-- Takes rooms whose holds should be looked at, for this caller alone: others pass them over for two seconds. KEYS[1]
-- orders rooms by when to look. Returns room and the score it was given, by turns.
local ROOMS, max = KEYS[1], tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local out = {}
for _, room in ipairs(redis.call('ZRANGEBYSCORE', ROOMS, '-inf', string.format('%.0f', now), 'LIMIT', 0, max)) do
  local lease = string.format('%.0f', now + 2000)
  redis.call('ZADD', ROOMS, lease, room)
  out[#out + 1], out[#out + 2] = room, lease
end
return out
