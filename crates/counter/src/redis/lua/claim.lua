-- Gives the first of the names that nobody has to the user. One that the user has already is given again.
-- NAMES: `<scope> <name>` -> user. OWNERS: user -> how many.
local NAMES, OWNERS, IDEM = KEYS[1], KEYS[2], KEYS[3]
local scope, user, hash, max, max_of_user = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local seen, before = idem_check(IDEM, hash)
if seen == 'other' then
  return { 'key_reused' }
elseif seen == 'same' then
  return { 'ok', before }
end
for i = 6, #ARGV do
  local field = scope .. ' ' .. ARGV[i]
  local owner = redis.call('HGET', NAMES, field)
  -- A generated name is a new one: what the user has already is passed over.
  if owner == user and #ARGV == 6 then
    return { 'ok', ARGV[i] }
  elseif not owner then
    if redis.call('HLEN', NAMES) >= max then
      return { 'too_many', 'claims' }
    elseif tonumber(redis.call('HGET', OWNERS, user) or '0') >= max_of_user then
      return { 'too_many', 'claims_of_user' }
    end
    redis.call('HSET', NAMES, field, user)
    redis.call('HINCRBY', OWNERS, user, 1)
    idem_store(IDEM, hash, ARGV[i])
    return { 'ok', ARGV[i] }
  end
end
return { 'taken' }
