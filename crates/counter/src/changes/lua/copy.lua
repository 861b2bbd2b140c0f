-- Adds entries of one slot's outbox to the stream of changes and notes how far that slot was copied, both or neither;
-- only for who holds the lease, and only if the slot stands where the caller believes. LOG: the stream. FROM: HASH
-- slot -> id of the last entry copied. LEASE: as lock.lua has it. The last arguments: id, kind, room and data of each.
local LOG, FROM, LEASE = KEYS[1], KEYS[2], KEYS[3]
local owner, fence, size, slot, expected, gap = unpack(ARGV, 1, 6)
local time = redis.call('TIME')
local holder, last, ends = unpack(redis.call('HMGET', LEASE, 'owner', 'fence', 'ends'))
if holder ~= owner or last ~= fence or tonumber(ends) <= time[1] * 1000 + math.floor(time[2] / 1000) then
  return { 'fenced' }
end
local position = redis.call('HGET', FROM, slot) or ''
if position ~= expected then
  return { 'moved', position }
end
local function add(kind, room, data)
  redis.call('XADD', LOG, 'MAXLEN', '~', size, '*', 'k', kind, 'r', room, 'd', data)
end
if gap == '1' then
  add('gap', '', '{}')
end
for i = 7, #ARGV, 4 do
  add(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
local copied = ARGV[#ARGV - 3]
redis.call('HSET', FROM, slot, copied)
return { 'ok', copied }
