-- Tells every node something that none may miss: on the channel, and in a list that each reads with its heartbeat.
-- KEYS[3]: STREAM of the last orders.
local ORDERS = KEYS[3]
local body, channel, most, ttl = unpack(ARGV)
local id = redis.call('XADD', ORDERS, 'MAXLEN', '~', most, '*', 'b', body)
redis.call('PEXPIRE', ORDERS, ttl)
publish(channel, 'O ' .. id .. '\n' .. body)
return id
