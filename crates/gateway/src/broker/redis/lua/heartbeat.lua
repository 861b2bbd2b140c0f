-- Renews a node's lease, removes the dead, and answers '1' where the lease still held, then the live nodes. A lease
-- that did not hold is news for all.
local node, stats, lease, channel = unpack(ARGV)
local now = now_ms()
local until_ms = redis.call('ZSCORE', LEASES, node)
local held = until_ms and tonumber(until_ms) > now
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', int_text(now))) do
  redis.call('ZREM', LEASES, dead)
  redis.call('HDEL', STATS, dead)
end
redis.call('ZADD', LEASES, int_text(now + tonumber(lease)), node)
redis.call('HSET', STATS, node, stats)
redis.call('PEXPIRE', LEASES, int_text(tonumber(lease) * 10))
redis.call('PEXPIRE', STATS, int_text(tonumber(lease) * 10))
if not held then
  publish(channel, 'N\n{}')
end
local answer = live_nodes(now)
table.insert(answer, 1, held and '1' or '0')
return answer
