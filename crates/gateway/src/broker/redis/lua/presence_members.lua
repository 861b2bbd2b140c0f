-- The counts, and from each live node its first users after the cursor with their connections. The caller merges:
-- Lua compares strings by the server's locale, the sorted sets by bytes.
local cursor, limit = unpack(ARGV, FIRST_ARG, FIRST_ARG + 1)
local connections, users = counts()
local answer = { connections, users }
local from = cursor == '' and '-' or ('(' .. cursor)
for i = 3, 2 + node_count do
  local many = redis.call('EXISTS', many_of(ARGV[i])) == 1
  if redis.call('HEXISTS', NODES, ARGV[i]) == 1 then
    for _, user in ipairs(redis.call('ZRANGEBYLEX', users_of(ARGV[i]), from, '+', 'LIMIT', 0, limit)) do
      answer[#answer + 1] = user
      answer[#answer + 1] = many and redis.call('HGET', many_of(ARGV[i]), user) or '1'
    end
  end
end
return answer
