-- Puts the dead back into the queue, oldest first, or only those named, while there is room. Answers how many went
-- back, and how many are left.
local capacity, chunk = tonumber(ARGV[1]), ARGV[2]
local messages = {}
if #ARGV > 2 then
  for i = 3, #ARGV do
    messages[#messages + 1] = redis.call('XRANGE', DEAD, ARGV[i], ARGV[i])[1]
  end
else
  messages = redis.call('XRANGE', DEAD, '-', '+', 'COUNT', chunk)
end
local replayed, room = 0, capacity - redis.call('XLEN', Q)
for _, message in ipairs(messages) do
  if replayed >= room then
    break
  end
  redis.call('XADD', Q, '*', 'i', field(message[2], 'i'), 'b', field(message[2], 'b'))
  redis.call('XDEL', DEAD, message[1])
  replayed = replayed + 1
end
return { int_text(replayed), int_text(redis.call('XLEN', DEAD)) }
