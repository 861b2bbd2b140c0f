-- Reads changes behind an id, oldest first, with the oldest that is kept: both at one moment. Reads only.
local STREAM, after, limit = KEYS[1], ARGV[1], ARGV[2]
local oldest = redis.call('XRANGE', STREAM, '-', '+', 'COUNT', 1)[1]
local out = { oldest and oldest[1] or '' }
for _, entry in ipairs(redis.call('XRANGE', STREAM, '(' .. after, '+', 'COUNT', limit)) do
  entry_add(out, entry)
end
return out
