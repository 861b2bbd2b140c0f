-- One node's shares of the connections that count together (each of an address, or of a user). KEYS: of each a HASH of
-- node → '<connections> <until>'; every node owns its field, and a reader adds up those of the live nodes. ARGV: the
-- node, how long a share lives, of each key how many connections the node holds, how many more ask for a place, the
-- cap over all nodes, and how many places it wants in reserve; behind them the live nodes. Answers of each key how many
-- of those who ask fit beside the others' shares, how many places are in reserve besides, and whether the cap is far: it
-- is no small one, and all together have no more than half of it. Places and reserve are in the node's share from now
-- on. What it holds already is written whatever the others have.
local SMALL_CAP = 7
local node, ttl = ARGV[1], tonumber(ARGV[2])
local now = now_ms()
local live = {}
for i = 3 + 4 * #KEYS, #ARGV do
  live[ARGV[i]] = true
end
local granted = {}
for k, shares_key in ipairs(KEYS) do
  local connections, asking = tonumber(ARGV[4 * k - 1]), tonumber(ARGV[4 * k])
  local cap, wanted = tonumber(ARGV[4 * k + 1]), tonumber(ARGV[4 * k + 2])
  local places, reserve, far = 0, 0, 0
  if asking > 0 then
    local others = 0
    local shares = redis.call('HGETALL', shares_key)
    for i = 1, #shares, 2 do
      local share, until_ms = string.match(shares[i + 1], '^(%d+) (%d+)$')
      if not share or tonumber(until_ms) <= now then
        -- Its node died long ago: nobody else would take it away.
        redis.call('HDEL', shares_key, shares[i])
      elseif shares[i] ~= node and live[shares[i]] then
        others = others + tonumber(share)
      end
    end
    places = math.max(0, math.min(asking, cap - others - connections))
    connections = connections + places
    local left = math.floor(cap / 2) - others - connections
    if left >= 0 and cap > SMALL_CAP then
      far, reserve = 1, math.min(wanted, left)
    end
    connections = connections + reserve
  end
  granted[3 * k - 2], granted[3 * k - 1], granted[3 * k] = places, reserve, far
  if connections == 0 then
    redis.call('HDEL', shares_key, node)
  else
    redis.call('HSET', shares_key, node, int_text(connections) .. ' ' .. int_text(now + ttl))
    redis.call('PEXPIRE', shares_key, int_text(ttl))
  end
end
return granted
