-- What the scripts of one source's queue share. All its keys are in one slot:
-- Q       STREAM of what waits or is in work; fields `i` (the sender's id) and `b` (the body).
-- RETRY   ZSET of entries that failed: entry → when it is due again, Unix ms.
-- TRIES   HASH: entry → how often it was taken.
-- DEAD    STREAM of what was given up: `i`, `b`, `r` (why), `n` (attempts), `t` (when, Unix ms).
-- An entry is in the group's pending list exactly while somebody works on it, and leaves Q only when it is done or dead.
local Q, RETRY, TRIES, DEAD = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local GROUP = 'workers'

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function int_text(n)
  return string.format('%.0f', n)
end

local function field(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then
      return fields[i + 1]
    end
  end
  return ''
end

-- The entry is gone from the queue, whoever held it.
local function forget(entry)
  redis.call('XDEL', Q, entry)
  redis.pcall('XACK', Q, GROUP, entry)
  redis.call('HDEL', TRIES, entry)
  redis.call('ZREM', RETRY, entry)
end
