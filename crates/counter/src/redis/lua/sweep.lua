-- Takes expired holds back. Returns how many, and when to look again (Unix ms): when the next is due, or sooner if a
-- hold that begins now could end sooner; '' for a room without items.
local now, ended = now_ms(), 0
for _ = 1, 5 do
  local n = holds_expire(now, 1000)
  ended = ended + n
  if n < 1000 then
    break
  end
end
local shortest
for _, packed in ipairs(redis.call('HVALS', ITEMS)) do
  local hold_ms = tonumber(string.match(packed, '(%d+)$'))
  shortest = math.min(shortest or hold_ms, hold_ms)
end
if not shortest then
  return { int_text(ended), '' }
end
local again = now + math.max(math.min(shortest, 60000), 250)
local first = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
if first then
  again = math.min(again, math.max(tonumber(first), now))
end
return { int_text(ended), int_text(again) }
