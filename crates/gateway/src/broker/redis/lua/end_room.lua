-- Ends a room: its log and presence go, a new epoch begins, and the members are told.
local META, LOG, NODES, PUSHED = unpack(KEYS)
local channel, epoch, keep_ms, body, presence_prefix = unpack(ARGV)
-- The first write is one that a full or read-only server refuses, before anything has gone.
redis.call('HSET', META, 'epoch', epoch, 'offset', '0')
redis.call('PEXPIRE', META, keep_ms)
for _, node in ipairs(redis.call('HKEYS', NODES)) do
  redis.call('UNLINK', presence_prefix .. ':' .. node, presence_prefix .. '.many:' .. node)
end
redis.call('UNLINK', LOG, NODES, PUSHED)
change_append('end', '{"epoch":"' .. epoch .. '"}')
publish(channel, 'X ' .. epoch .. ' 0\n' .. body)
return { epoch, '0' }
