-- Appends events to the room's log and publishes them, in their order, each at most once per idempotency key. An
-- item is a body and its hash; where the hash is not empty, the next of the keys is its own.
local META, LOG, KEY_INDEX = KEYS[1], KEYS[2], KEYS[3]
local channel, epoch_candidate, size, ttl, keep_ms = unpack(ARGV, 1, 5)
local outcomes, own = {}, 3
local function tell(outcome, epoch, offset, at)
  local n = #outcomes
  outcomes[n + 1], outcomes[n + 2], outcomes[n + 3], outcomes[n + 4] = outcome, epoch, offset, at
end
for item = 6, #ARGV, 2 do
  local body, body_hash, key = ARGV[item], ARGV[item + 1], nil
  if body_hash ~= '' then
    own = own + 1
    key = KEYS[own]
  end
  local seen, before = idem_check(key, body_hash)
  if seen == 'other' then
    tell('key_reused', '', '', '')
  elseif seen == 'same' then
    local epoch, offset = string.match(before, '^(%S+) (%d+)$')
    tell('duplicate', epoch, offset, '')
  else
    local epoch, offset, at = log_append(META, LOG, channel, epoch_candidate, size, ttl, body)
    idem_store(key, body_hash, epoch .. ' ' .. offset, KEY_INDEX, keep_ms)
    tell('stored', epoch, offset, at)
  end
end
return outcomes
