-- Holds the newest event and the newest count that a node knows of against what is here; either may be unknown, and empty.
-- Where the event is not there any more the log has lost its end, and perhaps other events have taken its place: the room
-- gets a new epoch, and all are told. Where the count is not, all of the room's counters get a version above whatever was
-- seen, and are told with it: else those who saw the lost value would keep it. Answers 'same', 'other' (the room has
-- another epoch already) or 'lost', which speaks of the event.
local META, LOG, COUNTS = KEYS[1], KEYS[2], KEYS[3]
local channel, epoch_candidate, keep_ms, body, epoch_known, offset, at, target, counter, version, highest = unpack(ARGV)
-- As many targets as a join tells of.
local MAX_TARGETS, CHUNK = 1000, 100

local function is_counted()
  if version == '' then
    return true
  end
  for name, _, known in string.gmatch(redis.call('HGET', COUNTS, target) or '', '(%S+) (%d+) (%d+);') do
    if name == counter then
      return tonumber(known) >= tonumber(version)
    end
  end
  return false
end

local function count_anew()
  local later = int_text(math.max(tonumber(highest) + 1, now_ms()))
  local own_target, own_counter = false, false
  local function renew(name, packed)
    local renewed = ''
    for which, value in string.gmatch(packed, '(%S+) (%d+) %d+;') do
      renewed = renewed .. which .. ' ' .. value .. ' ' .. later .. ';'
      count_publish(channel, later, name, which, value)
      own_counter = own_counter or (name == target and which == counter)
    end
    own_target = own_target or name == target
    redis.call('HSET', COUNTS, name, renewed)
  end
  local cursor, done = '0', 0
  repeat
    local page = redis.call('HSCAN', COUNTS, cursor, 'COUNT', CHUNK)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      renew(page[2][i], page[2][i + 1])
      done = done + 1
    end
  until cursor == '0' or done >= MAX_TARGETS
  local packed = not own_target and redis.call('HGET', COUNTS, target)
  if packed then
    renew(target, packed)
  end
  if not own_counter then
    -- The lost count was its first: nothing is left of it. Others may have seen later ones than this node, and those
    -- followed the clock too. It is kept with its version, as many counts a second have versions that outrun the clock:
    -- who counts from here on has to get a higher one.
    local others = redis.call('HGET', COUNTS, target) or ''
    redis.call('HSET', COUNTS, target, others .. counter .. ' 0 ' .. later .. ';')
    if redis.call('PTTL', COUNTS) < 0 then
      redis.call('PEXPIRE', COUNTS, keep_ms)
    end
    count_publish(channel, later, target, counter, '0')
  end
end

local function log_is()
  if epoch_known == '' then
    return 'same'
  end
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
  return 'lost', tail
end

local outcome, tail = log_is()
if outcome == 'lost' then
  redis.call('HSET', META, 'epoch', epoch_candidate)
  if redis.call('PTTL', META) < tonumber(keep_ms) then
    redis.call('PEXPIRE', META, keep_ms)
  end
  publish(channel, 'X ' .. epoch_candidate .. ' ' .. tail .. '\n' .. body)
end
if not is_counted() then
  count_anew()
end
return outcome
