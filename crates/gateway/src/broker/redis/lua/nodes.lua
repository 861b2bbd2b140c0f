-- What the scripts about nodes share. LEASES: ZSET of node → when its lease ends (Unix ms by this server's clock);
-- STATS: HASH of node → its figures.
local LEASES, STATS = KEYS[1], KEYS[2]

-- The live nodes as node, figures, node, figures, …
local function live_nodes(now)
  local answer = {}
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '(' .. int_text(now), '+inf')) do
    answer[#answer + 1] = node
    answer[#answer + 1] = redis.call('HGET', STATS, node) or 'null'
  end
  return answer
end
