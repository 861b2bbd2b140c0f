-- One page of the comments that wait for a decision, oldest first. Reads only; returns as comments.lua does.
local BODIES, STATES, QUEUE = KEYS[1], KEYS[2], KEYS[3]
local cursor, limit = ARGV[1], tonumber(ARGV[2])
local ids = redis.call('ZRANGEBYLEX', QUEUE, cursor == '' and '-' or '(' .. cursor, '+', 'LIMIT', 0, limit + 1)
local out = { '' }
for i, id in ipairs(ids) do
  if i > limit then
    out[1] = ids[limit]
    break
  end
  local state, version = string.match(redis.call('HGET', STATES, id) or '', '^(%a+) (%d+)')
  local body = redis.call('HGET', BODIES, id)
  if state and body then
    out[#out + 1], out[#out + 2], out[#out + 3] = state, version, body
  end
end
return out
