-- Keeps a node's figures and, where they are wanted, answers those of the live nodes. STATS is a hash of its own here:
-- these are many, and a heartbeat answers what it knows to every node.
local node, figures, lease, want = unpack(ARGV)
redis.call('HSET', STATS, node, figures)
redis.call('PEXPIRE', STATS, int_text(tonumber(lease) * 10))
if want ~= 'all' then
  return {}
end
local now = now_ms()
for _, known in ipairs(redis.call('HKEYS', STATS)) do
  local until_ms = redis.call('ZSCORE', LEASES, known)
  if not until_ms or tonumber(until_ms) <= now then
    redis.call('HDEL', STATS, known)
  end
end
return live_nodes(now)
