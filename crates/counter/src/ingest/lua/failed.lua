-- The entry failed: it waits for another try, or is given up and kept among the dead. Answers which.
local entry, reason, again_ms, max_dead = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local message = redis.call('XRANGE', Q, entry, entry)[1]
if not message then
  -- Somebody else, who took it over, has brought it to its end.
  return 'gone'
end
local now = now_ms()
if again_ms ~= '' then
  redis.call('ZADD', RETRY, int_text(now + tonumber(again_ms)), entry)
  redis.pcall('XACK', Q, GROUP, entry)
  return 'again'
end
local tries = redis.call('HGET', TRIES, entry) or '0'
local fields = message[2]
redis.call('XADD', DEAD, 'MAXLEN', '=', max_dead, '*', 'i', field(fields, 'i'), 'b', field(fields, 'b'), 'r', reason, 'n', tries, 't', int_text(now))
forget(entry)
return 'dead'
