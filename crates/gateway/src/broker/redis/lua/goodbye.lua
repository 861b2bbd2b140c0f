-- Gives up a node's lease and tells all.
local node, channel = unpack(ARGV)
redis.call('HDEL', STATS, node)
redis.call('ZREM', LEASES, node)
publish(channel, 'N\n{}')
return 1
