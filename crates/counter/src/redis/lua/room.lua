-- What the scripts of one room's counters share, behind log.lua: the names of keys and arguments, and a counter's
-- value. COUNTS holds one field per target, `<counter> <value> <version>;` for each of its counters.

-- KEYS[10] and later are a script's own; the record of its idempotency key, where it has one, is the last.
local META, LOG, COUNTS, LIKES, BODIES, STATES, INDEX, IDEMS, MUTED = unpack(KEYS)
local CHANNEL, ROOM_TTL = ARGV[1], ARGV[2]
local MAX_TARGETS, MAX_COUNTERS, MAX_COMMENTS = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local BODY_HASH, USER, USER_JSON = ARGV[6], ARGV[7], ARGV[8]
local EPOCH_CANDIDATE, HISTORY_SIZE, HISTORY_TTL = ARGV[9], ARGV[10], ARGV[11]
local IDEM = BODY_HASH ~= '' and KEYS[#KEYS] or nil
local MAX_VALUE = 9007199254740991

-- Looks a counter up without writing. `refused` names the cap that a first use of it would break.
local function counter_open(target, counter)
  local slot = { target = target, counter = counter, value = 0, version = 0, others = '' }
  local packed, found, others = redis.call('HGET', COUNTS, target), false, 0
  for name, value, version in string.gmatch(packed or '', '(%S+) (%d+) (%d+);') do
    if name == counter then
      slot.value, slot.version, found = tonumber(value), tonumber(version), true
    else
      slot.others = slot.others .. name .. ' ' .. value .. ' ' .. version .. ';'
      others = others + 1
    end
  end
  if not packed and redis.call('HLEN', COUNTS) >= MAX_TARGETS then
    slot.refused = 'targets'
  elseif not found and others >= MAX_COUNTERS then
    slot.refused = 'counters'
  end
  return slot
end

-- Changes the value and publishes it; returns value and version as text. The version follows the clock, but always
-- rises: so it also rises past what was seen before a loss of Redis' data.
local function counter_add(slot, by, now)
  local value = int_text(math.max(slot.value + by, 0))
  local version = int_text(math.max(slot.version + 1, now))
  redis.call('HSET', COUNTS, slot.target, slot.others .. slot.counter .. ' ' .. value .. ' ' .. version .. ';')
  count_publish(CHANNEL, version, slot.target, slot.counter, value)
  return value, version
end

-- Appends an event of this step to the room's log; `fields` is the inside of its JSON object `data`.
local function event(name, from_json, fields, now)
  local body = '{"event":"' .. name .. '","from":' .. from_json .. ',"data":{' .. fields .. '}}'
  return log_append(META, LOG, CHANNEL, EPOCH_CANDIDATE, HISTORY_SIZE, HISTORY_TTL, body, now)
end

-- Whether the user may not do anything in this room now.
local function is_muted()
  local ends = redis.call('HGET', MUTED, USER)
  return ends and tonumber(ends) > now_ms()
end

-- All of a room's keys live equally long: a set of likes that went before its count would let a like count twice.
local function room_touch()
  for _, key in ipairs({ COUNTS, LIKES, BODIES, STATES, INDEX }) do
    redis.call('PEXPIRE', key, ROOM_TTL)
  end
end
