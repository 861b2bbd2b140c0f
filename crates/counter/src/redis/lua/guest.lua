-- The guest of a secret: the one it already has, or the candidate. Whoever comes first decides for all.
local key, candidate, ttl = KEYS[1], ARGV[1], ARGV[2]
local user = redis.call('GET', key)
if user then
  redis.call('PEXPIRE', key, ttl)
  return { user, '0' }
end
redis.call('SET', key, candidate, 'PX', ttl)
return { candidate, '1' }
