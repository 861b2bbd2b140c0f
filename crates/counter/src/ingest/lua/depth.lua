-- How much waits, and how much is dead. Forgets consumers that hold nothing and have long been silent: each start of
-- a node makes a new one.
local SILENT_MS = 3600000
local consumers = redis.pcall('XINFO', 'CONSUMERS', Q, GROUP)
if not consumers.err then
  for _, consumer in ipairs(consumers) do
    if tonumber(field(consumer, 'pending')) == 0 and tonumber(field(consumer, 'idle')) > SILENT_MS then
      redis.call('XGROUP', 'DELCONSUMER', Q, GROUP, field(consumer, 'name'))
    end
  end
end
return { int_text(redis.call('XLEN', Q)), int_text(redis.call('XLEN', DEAD)) }
