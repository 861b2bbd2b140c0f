-- Appends an event to the room's log and publishes it, at most once per idempotency key.
local META, LOG, KEY_INDEX, KEY = unpack(KEYS)
local channel, epoch_candidate, size, ttl, body, body_hash, keep_ms = unpack(ARGV)
local seen, before = idem_check(KEY, body_hash)
if seen == 'other' then
  return { 'key_reused' }
elseif seen == 'same' then
  local epoch, offset = string.match(before, '^(%S+) (%d+)$')
  return { 'duplicate', epoch, offset }
end
local epoch, offset, at = log_append(META, LOG, channel, epoch_candidate, size, ttl, body)
idem_store(KEY, body_hash, epoch .. ' ' .. offset, KEY_INDEX, keep_ms)
return { 'stored', epoch, offset, at }
