-- What the scripts of a room's items share, behind room.lua. ITEMS: item -> `<stock> <sold> <held> <per_user>
-- <hold_ms>`. HOLDS: token -> `<state> <quantity> <expires> <item> <user>`, state h(eld), c(onfirmed), r(eleased) or
-- (e)x(pired). DUE orders the held ones by when they expire, ENDED the others by when they are forgotten. BUYERS:
-- `<item> <user>` -> what the user holds and has bought. All of it changes together, and `remaining` is published with it.

local ITEMS, HOLDS, DUE, BUYERS, ENDED = KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local HOLD_STATES = { h = 'held', c = 'confirmed', r = 'released', x = 'expired' }
-- A finished reservation is known for as long as somebody may ask again: a sale for a day, else ten minutes.
local KEEP_SALE, KEEP_OTHER = 86400000, 600000

local function item_open(name)
  local packed = redis.call('HGET', ITEMS, name)
  local stock, sold, held, per_user, hold_ms = string.match(packed or '', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not stock then
    return nil
  end
  return {
    name = name, stock = tonumber(stock), sold = tonumber(sold), held = tonumber(held),
    per_user = tonumber(per_user), hold_ms = tonumber(hold_ms),
  }
end

local function item_remaining(item)
  return item.stock - item.sold - item.held
end

local function item_text(item)
  return int_text(item.stock) .. ' ' .. int_text(item.sold) .. ' ' .. int_text(item.held)
    .. ' ' .. int_text(item.per_user) .. ' ' .. int_text(item.hold_ms)
end

-- Writes the item, and publishes what remains of it where that changed.
local function item_store(item, now)
  redis.call('HSET', ITEMS, item.name, item_text(item))
  change_append('stock', '{"item":"' .. item.name .. '","stock":' .. int_text(item.stock) .. ',"sold":' .. int_text(item.sold)
    .. ',"held":' .. int_text(item.held) .. ',"remaining":' .. int_text(item_remaining(item)) .. ',"per_user":'
    .. int_text(item.per_user) .. ',"hold_ms":' .. int_text(item.hold_ms) .. '}')
  local slot = counter_open(item.name, 'remaining')
  local by = item_remaining(item) - slot.value
  if by ~= 0 or slot.version == 0 then
    counter_add(slot, by, now)
  end
end

local function buyer_add(name, user, by)
  local field = name .. ' ' .. user
  if redis.call('HINCRBY', BUYERS, field, int_text(by)) <= 0 then
    redis.call('HDEL', BUYERS, field)
  end
end

local function hold_parse(record)
  local state, quantity, expires, name, user = string.match(record or '', '^(%a) (%d+) (%d+) (%S+) (.*)$')
  if not state then
    return nil
  end
  return { state = state, quantity = tonumber(quantity), expires = tonumber(expires), name = name, user = user }
end

-- Writes a hold. One that ended is kept until `forget`.
local function hold_store(token, hold, forget)
  redis.call('HSET', HOLDS, token, hold.state .. ' ' .. int_text(hold.quantity) .. ' ' .. int_text(hold.expires)
    .. ' ' .. hold.name .. ' ' .. hold.user)
  if forget then
    redis.call('ZREM', DUE, token)
    redis.call('ZADD', ENDED, int_text(forget), token)
  else
    redis.call('ZADD', DUE, int_text(hold.expires), token)
  end
  change_append('hold', '{"reservation":"' .. token .. '.' .. string.match(META, '{(.-)}:') .. '","item":"' .. hold.name
    .. '","user":' .. cjson.encode(hold.user) .. ',"quantity":' .. int_text(hold.quantity) .. ',"state":"'
    .. HOLD_STATES[hold.state] .. '","expires_at":' .. int_text(hold.expires) .. '}')
end

-- Gives a held one back, as `state`; the item is changed but not stored.
local function hold_return(token, hold, state, item, now)
  hold.state = state
  hold_store(token, hold, now + KEEP_OTHER)
  if item then
    item.held = item.held - hold.quantity
  end
  buyer_add(hold.name, hold.user, -hold.quantity)
end

local function holds_forget(tokens)
  if #tokens > 0 then
    redis.call('HDEL', HOLDS, unpack(tokens))
    redis.call('ZREM', ENDED, unpack(tokens))
  end
end

-- Ends holds whose time has come, and forgets finished ones whose time has come: at most `max` of each. Returns how
-- many holds ended.
local function holds_expire(now, max)
  holds_forget(redis.call('ZRANGEBYSCORE', ENDED, '-inf', int_text(now), 'LIMIT', 0, max))
  local due = redis.call('ZRANGEBYSCORE', DUE, '-inf', int_text(now), 'LIMIT', 0, max)
  if #due == 0 then
    return 0
  end
  local records, items = redis.call('HMGET', HOLDS, unpack(due)), {}
  for i, token in ipairs(due) do
    local hold = hold_parse(records[i])
    if hold then
      items[hold.name] = items[hold.name] or item_open(hold.name)
      hold_return(token, hold, 'x', items[hold.name], now)
    else
      redis.call('ZREM', DUE, token)
    end
  end
  for _, item in pairs(items) do
    item_store(item, now)
  end
  return #due
end

-- What is on offer lives until a month after the last step on it.
local function stock_touch()
  room_touch()
  for _, key in ipairs({ ITEMS, HOLDS, DUE, BUYERS, ENDED }) do
    redis.call('PEXPIRE', key, ROOM_TTL)
  end
end
