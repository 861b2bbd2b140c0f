-- Hands out what is in an outbox behind `position` ('': all of it), oldest first, at most `limit` entries and about
-- `most` bytes, and forgets what was copied long enough ago. Returns the oldest id that is there ('': none), how many
-- are, and '1' if there is more behind what follows: id, kind, room and data of each.
local OUTBOX, position = KEYS[1], ARGV[1]
local limit, keep_ms, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local PIECE = 10
local oldest = redis.call('XRANGE', OUTBOX, '-', '+', 'COUNT', 1)[1]
if not oldest then
  return { '', '0', '0' }
end
local out = { oldest[1], string.format('%.0f', redis.call('XLEN', OUTBOX)), '0' }
local from, count, bytes = position == '' and '-' or ('(' .. position), 0, 0
repeat
  local piece = redis.call('XRANGE', OUTBOX, from, '+', 'COUNT', PIECE)
  for _, entry in ipairs(piece) do
    if count == limit or bytes >= most then
      out[3] = '1'
      break
    end
    from, count, bytes = '(' .. entry[1], count + 1, bytes + entry_add(out, entry)
  end
until out[3] == '1' or #piece < PIECE
if position ~= '' then
  -- The entry at the position stays: that it is there is how the next look knows that nothing was given up behind it.
  local time = redis.call('TIME')
  local before = math.min(time[1] * 1000 - keep_ms, tonumber(string.match(position, '^%d+')))
  redis.call('XTRIM', OUTBOX, 'MINID', string.format('%.0f', math.max(before, 0)))
end
return out
