-- What the presence scripts share. NODES: HASH of node → connections. Per node: a ZSET of its users (all scores 0, so that
-- they are ordered by id), and in `.many` a HASH with the connections of those who have more than one. A node's share outlives the node by its TTL; whether it counts is for the list of live nodes to say.
local NODES, SCRATCH = KEYS[1], KEYS[2]
local presence_prefix, node_count = ARGV[1], tonumber(ARGV[2])
local FIRST_ARG = 3 + node_count

local function users_of(node)
  return presence_prefix .. ':' .. node
end

local function many_of(node)
  return presence_prefix .. '.many:' .. node
end

-- In a room of more connections the users are not counted anew at each change, but at each push.
local LARGE = 1000

-- Connections and distinct users over the live nodes. With users on one node only, no set is walked; nor is one in a
-- large room whose users are `known` from a moment ago.
local function counts(known)
  local connections, sets = 0, {}
  for i = 3, 2 + node_count do
    local here = redis.call('HGET', NODES, ARGV[i])
    if here then
      connections = connections + tonumber(here)
      sets[#sets + 1] = users_of(ARGV[i])
    end
  end
  local users = 0
  if #sets == 1 then
    users = redis.call('ZCARD', sets[1])
  elseif #sets > 1 and known and connections > LARGE then
    -- Many may have gone since.
    users = math.min(known, connections)
  elseif #sets > 1 then
    users = redis.call('ZUNIONSTORE', SCRATCH, #sets, unpack(sets))
    redis.call('UNLINK', SCRATCH)
  end
  return string.format('%.0f', connections), string.format('%.0f', users)
end
