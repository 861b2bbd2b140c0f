-- Renews a node's lease, removes the dead, and answers '1' where the lease still held; then the id of the newest
-- order, and how many follow: those behind the one that the node has read last ('' where it begins), as id and body;
-- then the live nodes. A lease that did not hold is news for all.
local ORDERS = KEYS[3]
local node, stats, lease, channel, read = unpack(ARGV)
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
local answer = { held and '1' or '0', '0-0', '0' }
local newest = redis.call('XREVRANGE', ORDERS, '+', '-', 'COUNT', 1)
if newest[1] then
  answer[2] = newest[1][1]
  if read ~= '' then
    local orders = redis.call('XRANGE', ORDERS, '(' .. read, '+')
    answer[3] = int_text(#orders)
    for _, order in ipairs(orders) do
      answer[#answer + 1], answer[#answer + 2] = order[1], order[2][2]
    end
  end
end
for _, word in ipairs(live_nodes(now)) do
  answer[#answer + 1] = word
end
return answer
