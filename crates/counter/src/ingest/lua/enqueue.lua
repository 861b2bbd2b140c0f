-- Takes a body in, once per id: the record and the entry are one step, and durable when this answers.
local RECORD = KEYS[5]
local body_hash, id, body, capacity, remember_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local known = redis.call('GET', RECORD)
if known then
  return known == body_hash and 'duplicate' or 'mismatch'
end
if redis.call('XLEN', Q) >= capacity then
  return 'full'
end
redis.call('XADD', Q, '*', 'i', id, 'b', body)
redis.call('SET', RECORD, body_hash, 'PX', remember_ms)
return 'queued'
