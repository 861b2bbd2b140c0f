-- Gives a name back, if it is the user's. Returns 1 if it was.
local NAMES, OWNERS = KEYS[1], KEYS[2]
local field, user = ARGV[1] .. ' ' .. ARGV[3], ARGV[2]
if redis.call('HGET', NAMES, field) ~= user then
  return 0
end
redis.call('HDEL', NAMES, field)
if redis.call('HINCRBY', OWNERS, user, -1) <= 0 then
  redis.call('HDEL', OWNERS, user)
end
return 1
