-- One page of comments, newest first, as one viewer may see them. Reads only.
-- Returns the cursor of the next page ('' at the end), then state, version and body of each comment.
local BODIES, STATES, INDEX = KEYS[1], KEYS[2], KEYS[3]
local prefix, cursor, limit, viewer, user = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
-- Hidden comments are passed over, but not without end: then the page is short and the cursor says where to go on.
local BATCH, MAX_SCANNED = 100, 2000

local function shown(state, author)
  if state == 'visible' or state == 'approved' then
    return true
  end
  return state == 'pending' and (viewer == 'admin' or (viewer == 'user' and user == author))
end

local out, found, scanned = { '' }, 0, 0
local from = cursor == '' and ('[' .. prefix .. '~') or ('(' .. prefix .. cursor)
while true do
  local batch = redis.call('ZREVRANGEBYLEX', INDEX, from, '[' .. prefix, 'LIMIT', 0, BATCH)
  for i, member in ipairs(batch) do
    local id = string.sub(member, -16)
    local state, version, author = string.match(redis.call('HGET', STATES, id) or '', '^(%a+) (%d+) (.*)$')
    local body = shown(state, author) and redis.call('HGET', BODIES, id)
    if body then
      found = found + 1
      out[#out + 1], out[#out + 2], out[#out + 3] = state, version, body
      if found == limit then
        if i < #batch or #batch == BATCH then
          out[1] = id
        end
        return out
      end
    end
  end
  if #batch < BATCH then
    return out
  end
  scanned = scanned + BATCH
  if scanned >= MAX_SCANNED then
    out[1] = string.sub(batch[BATCH], -16)
    return out
  end
  from = '(' .. batch[BATCH]
end
