-- One page of the dead, oldest first: entry, id, body, reason, attempts, when.
local after, limit = ARGV[1], ARGV[2]
local out = {}
for _, message in ipairs(redis.call('XRANGE', DEAD, after == '' and '-' or ('(' .. after), '+', 'COUNT', limit)) do
  local fields = message[2]
  out[#out + 1] = message[1]
  for _, name in ipairs({ 'i', 'b', 'r', 'n', 't' }) do
    out[#out + 1] = field(fields, name)
  end
end
return out
