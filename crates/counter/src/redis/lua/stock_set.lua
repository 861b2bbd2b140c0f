-- Offers an item, or changes what is offered. `stock` is the whole, so that a retry changes nothing.
local name, stock, per_user, hold_ms, max_items = ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])
local now = now_ms()
holds_expire(now, 1000)
local item = item_open(name)
if not item then
  local refused = counter_open(name, 'remaining').refused
  if redis.call('HLEN', ITEMS) >= max_items then
    return { 'too_many', 'items' }
  elseif refused then
    return { 'too_many', refused }
  end
  item = { name = name, sold = 0, held = 0 }
elseif stock < item.sold + item.held then
  return { 'conflict', item_text(item) }
end
item.stock, item.per_user, item.hold_ms = stock, per_user, hold_ms
item_store(item, now)
stock_touch()
return { 'ok', item_text(item) }
