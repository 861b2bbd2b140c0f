-- What every script that publishes into a room shares: the room's log, its channel, and the records that make a
-- retry harmless. Local functions only; it has no effect of its own, and it never decides what is published.
-- A script is put behind this text, and whatever it then does is one step: applied and published, or neither.
-- The first write of each function is one that Redis refuses when it is out of memory, read-only or cut off from
-- its replicas, so that such a refusal leaves nothing half done.

-- 'SPUBLISH' where the node uses sharded channels: a script may assign it before it calls anything.
local publish_via = 'PUBLISH'

-- Where durable changes go: how many entries are kept (0: there are none), the stream, and how long it outlives the last
-- (nil: for ever). Assigned right behind this text, like publish_via.
local changes_size, changes_key, changes_ttl = 0, nil, nil

-- Lua's numbers are doubles: exact up to 2^53, but tostring() would write large ones with an exponent.
local function int_text(n)
  return string.format('%.0f', n)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function publish(channel, payload)
  redis.call(publish_via, channel, payload)
end

-- Adds one entry to the stream of changes, in the step that makes the change: call it behind the script's first
-- write. `kind` is a short plain word, `json` a JSON object. Costs nothing where changes are off.
local function change_append(kind, json)
  if changes_size == 0 then
    return
  end
  local room = string.match(KEYS[1], '{(.-)}:')
  redis.call('XADD', changes_key, 'MAXLEN', '~', int_text(changes_size), '*', 'k', kind, 'r', room, 'd', json)
  if changes_ttl then
    redis.call('PEXPIRE', changes_key, int_text(changes_ttl))
  end
end

-- Appends one event to the room's log and publishes it; `at` (Unix ms) may be left out. Returns epoch, offset and
-- at as text. A room without `meta` starts a new epoch, and what is left of an older log goes with the old one.
local function log_append(meta_key, log_key, channel, epoch_candidate, history_size, history_ttl_ms, body, at)
  local size, ttl = tonumber(history_size), tonumber(history_ttl_ms)
  at = int_text(at or now_ms())
  if redis.call('HSETNX', meta_key, 'epoch', epoch_candidate) == 1 then
    redis.call('UNLINK', log_key)
  end
  local epoch = redis.call('HGET', meta_key, 'epoch')
  local offset = int_text(redis.call('HINCRBY', meta_key, 'offset', 1))
  if size > 0 then
    redis.call('XADD', log_key, 'MAXLEN', '=', int_text(size), offset .. '-0', 'b', body, 'a', at)
    redis.call('PEXPIRE', log_key, int_text(ttl))
  else
    -- Without a log, what tells the last event from another at the same offset after a failover.
    redis.call('HSET', meta_key, 'at', at)
  end
  -- The position must outlive the log: a log without its position could not be continued.
  redis.call('PEXPIRE', meta_key, int_text(ttl + 86400000))
  publish(channel, 'E ' .. epoch .. ' ' .. offset .. ' ' .. at .. '\n' .. body)
  change_append('event', '{"epoch":"' .. epoch .. '","offset":' .. offset .. ',"at":' .. at .. ',"event":' .. body .. '}')
  return epoch, offset, at
end

-- What is known of an idempotency key: 'new', 'same' with the reply given then, or 'other' (another body).
-- Without a key (nil or '') everything is new.
local function idem_check(key, body_hash)
  if not key or key == '' then
    return 'new'
  end
  local record = redis.call('GET', key)
  if not record then
    return 'new'
  end
  local hash, reply = string.match(record, '^([^\n]*)\n(.*)$')
  if hash == body_hash then
    return 'same', reply
  end
  return 'other'
end

-- Keeps the reply for 10 minutes, or for `keep_ms`. `index_key` (may be nil) names a sorted set that lists the room's records, so
-- that ending the room can remove them at once.
local function idem_store(key, body_hash, reply, index_key, keep_ms)
  if not key or key == '' then
    return
  end
  local keep = tonumber(keep_ms) or 600000
  redis.call('SET', key, body_hash .. '\n' .. reply, 'PX', int_text(keep))
  if index_key then
    local now = now_ms()
    redis.call('ZADD', index_key, int_text(now + keep), key)
    redis.call('ZREMRANGEBYSCORE', index_key, '-inf', int_text(now))
    if redis.call('PTTL', index_key) < keep then
      redis.call('PEXPIRE', index_key, int_text(keep))
    end
  end
end

-- Tells subscribers a counter's new value. Targets and counter names need no escaping: their alphabet has no
-- quote, no backslash and no control character.
local function count_publish(channel, version, target, counter, value)
  publish(channel, 'C ' .. version .. '\n{"target":"' .. target .. '","counter":"' .. counter .. '","value":' .. value .. '}')
end
