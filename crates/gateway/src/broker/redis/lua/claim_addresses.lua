-- One node's share of the connections that count together (of an address, or of a user). KEYS[1]: HASH of node →
-- '<connections> <until>'; each node owns its field, and a reader adds up those of the live nodes. With a cap, the
-- share is written only where it fits beside the others' shares; with '0' it is written whatever they are.
-- Answers 1 where it was written.
local SHARES = KEYS[1]
local node, connections, cap, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()
if cap > 0 then
  local live, others = {}, 0
  for i = 5, #ARGV do
    live[ARGV[i]] = true
  end
  local shares = redis.call('HGETALL', SHARES)
  for i = 1, #shares, 2 do
    local share, until_ms = string.match(shares[i + 1], '^(%d+) (%d+)$')
    if not share or tonumber(until_ms) <= now then
      -- Its node died long ago: nobody else would take it away.
      redis.call('HDEL', SHARES, shares[i])
    elseif shares[i] ~= node and live[shares[i]] then
      others = others + tonumber(share)
    end
  end
  if others + connections > cap then
    return 0
  end
end
if connections == 0 then
  redis.call('HDEL', SHARES, node)
else
  redis.call('HSET', SHARES, node, int_text(connections) .. ' ' .. int_text(now + ttl))
  redis.call('PEXPIRE', SHARES, int_text(ttl))
end
return 1
