-- Confirms the user's reservation, or gives it back. A hold leaves its state once: by confirm, release or expiry,
-- whichever step comes first; the same again answers the same.
local token, confirm = ARGV[12], ARGV[13] == 'confirm'
local now = now_ms()
holds_expire(now, 100)
local hold = hold_parse(redis.call('HGET', HOLDS, token))
if not hold or hold.user ~= USER then
  return { 'not_found' }
end
local item = item_open(hold.name)
if not item then
  return { 'not_found' }
end
if hold.state == 'h' then
  if hold.expires <= now then
    hold_return(token, hold, 'x', item, now)
  elseif confirm then
    hold.state = 'c'
    hold_store(token, hold, now + KEEP_SALE)
    item.held, item.sold = item.held - hold.quantity, item.sold + hold.quantity
  else
    hold_return(token, hold, 'r', item, now)
  end
  item_store(item, now)
  stock_touch()
end
if confirm == (hold.state == 'c') then
  return { 'ok', hold.state, int_text(item_remaining(item)) }
end
return { 'conflict', hold.state }
