-- Holds the newest event that a node knows of against the log. Where it is not there any more the log has lost its end,
-- and perhaps other events have taken its place: the room gets a new epoch, and all are told. Answers 'same', 'other'
-- (the room has another epoch already) or 'lost'.
local META, LOG = KEYS[1], KEYS[2]
local channel, epoch_candidate, keep_ms, body, epoch_known, offset, at = unpack(ARGV)
local epoch = redis.call('HGET', META, 'epoch')
if epoch ~= epoch_known then
  return 'other'
end
local tail = redis.call('HGET', META, 'offset') or '0'
if tonumber(tail) >= tonumber(offset) then
  local id = offset .. '-0'
  local entry = redis.call('XRANGE', LOG, id, id)[1]
  if entry then
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'a' and entry[2][i + 1] == at then
        return 'same'
      end
    end
  elseif tail == offset and redis.call('HGET', META, 'at') == at then
    return 'same'
  end
end
redis.call('HSET', META, 'epoch', epoch_candidate)
if redis.call('PTTL', META) < tonumber(keep_ms) then
  redis.call('PEXPIRE', META, keep_ms)
end
publish(channel, 'X ' .. epoch_candidate .. ' ' .. tail .. '\n' .. body)
return 'lost'
