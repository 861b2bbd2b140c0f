-- Holds some of an item for a user: within what remains and within the user's cap, or not at all.
local name, quantity, token, max_holds = ARGV[12], tonumber(ARGV[13]), ARGV[14], tonumber(ARGV[15])
if is_muted() then
  return { 'muted' }
end
local seen, before = idem_check(IDEM, BODY_HASH)
if seen == 'other' then
  return { 'key_reused' }
elseif seen == 'same' then
  local kept, remaining, expires = string.match(before, '^(%S+) (%d+) (%d+)$')
  return { 'ok', kept, remaining, expires }
end
local now = now_ms()
local looked = holds_expire(now, 100)
local item = item_open(name)
if not item then
  return { 'not_found' }
end
-- Before anybody is told that nothing is left, all that is due has come back; the bound only guards Redis.
local rounds = 0
while item_remaining(item) < quantity and looked > 0 and rounds < 10 do
  looked, rounds = holds_expire(now, 1000), rounds + 1
  item = item_open(name)
end
local mine = tonumber(redis.call('HGET', BUYERS, name .. ' ' .. USER) or '0')
if mine + quantity > item.per_user then
  return { 'user_limit', int_text(item.per_user), int_text(mine) }
elseif item_remaining(item) < quantity then
  return { 'sold_out', int_text(item_remaining(item)) }
end
-- Live and finished ones are bounded apart, so that nobody is kept out by what others began and gave back. Of too many
-- finished ones those go first that would be forgotten first; two for each new one keeps the sum within both bounds.
local finished = redis.call('ZCARD', ENDED)
if redis.call('HLEN', HOLDS) - finished >= max_holds then
  return { 'too_many', 'holds' }
elseif finished > max_holds then
  holds_forget(redis.call('ZRANGE', ENDED, 0, 1))
end
local hold = { state = 'h', quantity = quantity, expires = now + item.hold_ms, name = name, user = USER }
hold_store(token, hold)
buyer_add(name, USER, quantity)
item.held = item.held + quantity
item_store(item, now)
local remaining, expires = int_text(item_remaining(item)), int_text(hold.expires)
idem_store(IDEM, BODY_HASH, token .. ' ' .. remaining .. ' ' .. expires, IDEMS)
stock_touch()
return { 'ok', token, remaining, expires }
