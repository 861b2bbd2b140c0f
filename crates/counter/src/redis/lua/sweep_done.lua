-- Says when to look at a room again, or ('') never; unless its score is not the taker's any more, because items were
-- offered meanwhile.
local ROOMS, room, lease, again = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
if redis.call('ZSCORE', ROOMS, room) ~= lease then
  return 0
elseif again == '' then
  return redis.call('ZREM', ROOMS, room)
end
redis.call('ZADD', ROOMS, again, room)
return 1
