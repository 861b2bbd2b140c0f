-- Changes one node's share of a room, and pushes the new counts unless that happened less than the interval ago.
local PUSHED = KEYS[3]
local node, connections, replace, ttl, interval, channel, gone_count = unpack(ARGV, FIRST_ARG, FIRST_ARG + 6)
local users, many = users_of(node), many_of(node)
local at = FIRST_ARG + 7
if replace == '1' then
  redis.call('UNLINK', users, many)
end
for _ = 1, tonumber(gone_count) do
  redis.call('ZREM', users, ARGV[at])
  redis.call('HDEL', many, ARGV[at])
  at = at + 1
end
while at < #ARGV do
  local user, open = ARGV[at], tonumber(ARGV[at + 1])
  if open == 0 then
    redis.call('ZREM', users, user)
    redis.call('HDEL', many, user)
  else
    redis.call('ZADD', users, 0, user)
    if open > 1 then
      redis.call('HSET', many, user, ARGV[at + 1])
    else
      redis.call('HDEL', many, user)
    end
  end
  at = at + 2
end
if tonumber(connections) == 0 and redis.call('EXISTS', users) == 0 then
  redis.call('HDEL', NODES, node)
else
  redis.call('HSET', NODES, node, connections)
  redis.call('PEXPIRE', NODES, ttl)
  redis.call('PEXPIRE', users, ttl)
  redis.call('PEXPIRE', many, ttl)
end
-- Nodes that died long ago: their users are gone with their TTL, and nobody else would take their field away.
if redis.call('HLEN', NODES) > node_count then
  for _, other in ipairs(redis.call('HKEYS', NODES)) do
    if other ~= node and redis.call('EXISTS', users_of(other)) == 0 then
      redis.call('HDEL', NODES, other)
    end
  end
end

-- PUSHED stands while no push is due, and holds the users that the last one told.
local pushes = interval == '0'
if not pushes and interval ~= 'never' then
  pushes = redis.call('SET', PUSHED, '', 'NX', 'PX', interval) ~= false
end
local known = nil
if not pushes then
  known = tonumber(redis.call('GET', PUSHED) or '')
end
local all_connections, all_users = counts(known)
if pushes then
  publish(channel, 'P\n{"connections":' .. all_connections .. ',"users":' .. all_users .. '}')
  if interval ~= '0' then
    redis.call('SET', PUSHED, all_users, 'XX', 'KEEPTTL')
  end
end
return { all_connections, all_users, pushes and '1' or '0' }
