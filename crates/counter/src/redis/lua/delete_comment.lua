-- Deletes a comment: a tombstone stays in STATES, the text goes, from the room's log as well. A second time changes
-- nothing. What was visible is taken back in this step: an event tells so, and the count goes down.
local QUEUE, PLACES = KEYS[10], KEYS[11]
local id, placeholder = ARGV[12], ARGV[13]
local state, version, author = string.match(redis.call('HGET', STATES, id) or '', '^(%a+) (%d+) (.*)$')
if not state then
  return { 'not_found' }
elseif state == 'deleted' then
  return { 'ok', version }
end

-- Entries of a stream can't be changed, and a missing offset would look like a loss: the log is written anew, with
-- an entry that says nothing in the place of this one.
local function purge(epoch, offset)
  if redis.call('HGET', META, 'epoch') ~= epoch or #redis.call('XRANGE', LOG, offset .. '-0', offset .. '-0') == 0 then
    return
  end
  local ttl = redis.call('PTTL', LOG)
  local entries = redis.call('XRANGE', LOG, '-', '+')
  redis.call('DEL', LOG)
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    if entry[1] == offset .. '-0' then
      for i = 1, #fields, 2 do
        if fields[i] == 'b' then
          fields[i + 1] = placeholder
        end
      end
    end
    redis.call('XADD', LOG, entry[1], unpack(fields))
  end
  if ttl > 0 then
    redis.call('PEXPIRE', LOG, ttl)
  end
end

local now = now_ms()
local target = cjson.decode(redis.call('HGET', BODIES, id)).target
local after = int_text(tonumber(version) + 1)
redis.call('HSET', STATES, id, 'deleted ' .. after .. ' ' .. author)
redis.call('HDEL', BODIES, id)
redis.call('ZREM', INDEX, '*' .. id, target .. ' ' .. id)
redis.call('ZREM', QUEUE, id)
if state == 'visible' or state == 'approved' then
  local epoch, offset = string.match(redis.call('HGET', PLACES, id) or '', '^(%S+) (%d+)$')
  redis.call('HDEL', PLACES, id)
  if epoch then
    purge(epoch, offset)
  end
  local fields = '"comment":"' .. id .. '","target":"' .. target .. '","version":' .. after
  event('comment_deleted', USER_JSON, fields, now)
  counter_add(counter_open(target, 'comment'), -1, now)
end
room_touch()
return { 'ok', after }
