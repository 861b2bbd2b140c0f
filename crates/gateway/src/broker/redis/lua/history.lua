-- Where the log stands, and a part of it, seen at one moment. A room without a log gets its epoch here; where nothing
-- was ever written it is kept for minutes only, so that a flood of made-up names leaves nothing behind.
-- Answers epoch, offset, '1' where nothing is missing, and then id, body and time of each event: oldest first after
-- `since`, newest first for `recent` and `before`. A page ends early, though never before its first event, when it
-- has grown large: one room's past must not hold up every other room's commands.
local META, LOG = KEYS[1], KEYS[2]
local CHUNK, BUDGET = 50, 524288
local epoch_candidate, keep_ms, mode, epoch_known, offset, limit, keep_unwritten_ms = unpack(ARGV)
local epoch = redis.call('HGET', META, 'epoch')
if not epoch then
  -- Only here, so that a server that is out of memory can still be read.
  redis.call('HSET', META, 'epoch', epoch_candidate)
  redis.call('UNLINK', LOG)
  epoch = epoch_candidate
end
local tail = redis.call('HGET', META, 'offset') or '0'
local keep = tail == '0' and keep_unwritten_ms or keep_ms
if redis.call('PTTL', META) < tonumber(keep) then
  redis.call('PEXPIRE', META, keep)
end

-- Entries one after the other, in small steps, until enough are there in number or in bytes.
local entries, bytes = {}, 0
local function take(command, from, to)
  while #entries < tonumber(limit) and bytes < BUDGET do
    local chunk = redis.call(command, LOG, from, to, 'COUNT', math.min(CHUNK, tonumber(limit) - #entries))
    for _, entry in ipairs(chunk) do
      if bytes >= BUDGET then
        return
      end
      entries[#entries + 1] = entry
      for i = 2, #entry[2], 2 do
        bytes = bytes + #entry[2][i]
      end
    end
    if #chunk < CHUNK then
      return
    end
    from = '(' .. chunk[#chunk][1]
  end
end

local complete = '1'
if mode == 'since' then
  local since = tonumber(offset)
  if epoch ~= epoch_known or since > tonumber(tail) then
    complete = '0'
  else
    local first = string.format('%.0f-0', since + 1)
    take('XRANGE', first, '+')
    local unbroken = tonumber(tail) == since
    if entries[1] then
      unbroken = entries[1][1] == first
    end
    complete = unbroken and '1' or '0'
  end
elseif limit ~= '0' then
  local newest = '+'
  if mode == 'before' then
    newest = string.format('%.0f-0', math.max(tonumber(offset) - 1, 0))
  end
  take('XREVRANGE', newest, '-')
end

local answer = { epoch, tail, complete }
for _, entry in ipairs(entries) do
  local fields = {}
  for i = 1, #entry[2], 2 do
    fields[entry[2][i]] = entry[2][i + 1]
  end
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = entry[1], fields.b or '', fields.a or ''
end
return answer
