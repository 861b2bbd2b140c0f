-- Hands out at most so many entries: those of consumers that died, those due for another try, and new ones, in this
-- order. Returns entry, attempt, id and body of each.
local consumer, most, lease_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]
if redis.call('EXISTS', Q) == 0 then
  return {}
end
local taken, out = 0, {}
local function hand_out(entry, fields)
  local attempt = redis.call('HINCRBY', TRIES, entry, 1)
  out[#out + 1], out[#out + 2] = entry, int_text(attempt)
  out[#out + 1], out[#out + 2] = field(fields, 'i'), field(fields, 'b')
  taken = taken + 1
end

-- The group goes with the stream when data is lost; it begins with the oldest entry.
local claimed = redis.pcall('XAUTOCLAIM', Q, GROUP, consumer, lease_ms, '0-0', 'COUNT', int_text(most))
if claimed.err then
  redis.call('XGROUP', 'CREATE', Q, GROUP, '0')
  claimed = { '0-0', {} }
end
for _, message in ipairs(claimed[2]) do
  -- Redis 6.2 also lists entries that are gone.
  if message and message[2] then
    hand_out(message[1], message[2])
  end
end
if taken < most then
  local due = redis.call('ZRANGEBYSCORE', RETRY, '-inf', int_text(now_ms()), 'LIMIT', 0, int_text(most - taken))
  for _, entry in ipairs(due) do
    redis.call('ZREM', RETRY, entry)
    local message = redis.call('XCLAIM', Q, GROUP, consumer, 0, entry, 'FORCE')[1]
    if message and message[2] then
      hand_out(message[1], message[2])
    end
  end
end
if taken < most then
  local fresh = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', int_text(most - taken), 'STREAMS', Q, '>')
  for _, message in ipairs(fresh and fresh[1][2] or {}) do
    hand_out(message[1], message[2])
  end
end
return out
