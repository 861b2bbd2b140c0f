-- Hands out what is in an outbox behind `position` ('': all of it), oldest first, and forgets what was copied long
-- enough ago. Returns the oldest id that is there ('': none) and how many are, then id, kind, room and data of each.
local OUTBOX, position, limit, keep_ms = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local oldest = redis.call('XRANGE', OUTBOX, '-', '+', 'COUNT', 1)[1]
if not oldest then
  return { '', '0' }
end
local out = { oldest[1], string.format('%.0f', redis.call('XLEN', OUTBOX)) }
for _, entry in ipairs(redis.call('XRANGE', OUTBOX, position == '' and '-' or ('(' .. position), '+', 'COUNT', limit)) do
  local fields = {}
  for i = 1, #entry[2], 2 do
    fields[entry[2][i]] = entry[2][i + 1]
  end
  out[#out + 1], out[#out + 2] = entry[1], fields['k']
  out[#out + 1], out[#out + 2] = fields['r'], fields['d']
end
if position ~= '' then
  -- The entry at the position stays: that it is there is how the next look knows that nothing was given up behind it.
  local time = redis.call('TIME')
  local before = math.min(time[1] * 1000 - keep_ms, tonumber(string.match(position, '^%d+')))
  redis.call('XTRIM', OUTBOX, 'MINID', string.format('%.0f', math.max(before, 0)))
end
return out
