-- The log of a room, its channel, and idempotency records, for the scripts behind this text. Local functions only.

-- tostring() would write large numbers with an exponent.
local function int_text(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local seconds, micros = unpack(redis.call('TIME'))
  return tonumber(seconds) * 1000 + math.floor(tonumber(micros) / 1000)
end

local function publish(channel, payload)
  redis.call('PUBLISH', channel, payload)
end

-- One event: a place in the log, the log's bounds, the news. Gives epoch and offset as text.
local function log_append(meta, log, channel, epoch_candidate, size, ttl, body)
  if redis.call('HSETNX', meta, 'epoch', epoch_candidate) == 1 then
    redis.call('UNLINK', log)
  end
  local epoch = redis.call('HGET', meta, 'epoch')
  local offset, at = int_text(redis.call('HINCRBY', meta, 'offset', 1)), int_text(now_ms())
  if tonumber(size) > 0 then
    redis.call('XADD', log, 'MAXLEN', '=', size, offset .. '-0', 'b', body, 'a', at)
    redis.call('PEXPIRE', log, ttl)
  end
  redis.call('PEXPIRE', meta, int_text(tonumber(ttl) + 86400000))
  publish(channel, 'E ' .. epoch .. ' ' .. offset .. ' ' .. at .. '\n' .. body)
  return epoch, offset
end

-- 'new', 'same' with what was answered then, or 'other'.
local function idem_check(key, body_hash)
  local record = key and redis.call('GET', key)
  if not record then
    return 'new'
  end
  local hash, answer = string.match(record, '^([^\n]*)\n(.*)$')
  if hash ~= body_hash then
    return 'other'
  end
  return 'same', answer
end

-- Remembers an answer for ten minutes, and that there is such a record.
local function idem_store(key, body_hash, answer, index)
  if not key then
    return
  end
  redis.call('SET', key, body_hash .. '\n' .. answer, 'PX', 600000)
  local now = now_ms()
  redis.call('ZADD', index, int_text(now + 600000), key)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', int_text(now))
  redis.call('PEXPIRE', index, 600000)
end
