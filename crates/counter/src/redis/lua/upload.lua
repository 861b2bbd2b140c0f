-- Moves an upload forward: started, progress, then complete or failed for ever. A step that is behind is answered
-- with where the upload is. Visible only by the event of `complete`; progress is told and forgotten.
-- UPLOADS: target -> `<state> <progress> <user>`.
local UPLOADS = KEYS[10]
local target, to, progress, max_uploads = ARGV[12], ARGV[13], ARGV[14], tonumber(ARGV[15])
if is_muted() then
  return { 'muted' }
end
local state, percent, owner = string.match(redis.call('HGET', UPLOADS, target) or '', '^(%a+) (%d+) (.*)$')
if state and owner ~= USER then
  return { 'not_owner' }
elseif not state and to ~= 'started' then
  return { 'not_found' }
elseif not state and redis.call('HLEN', UPLOADS) >= max_uploads then
  return { 'too_many', 'uploads' }
elseif state == 'complete' or state == 'failed' then
  if state == to then
    return { 'ok', state, percent }
  end
  return { 'conflict', state }
elseif state and to == 'started' then
  return { 'ok', state, percent }
end
local now = now_ms()
if to == 'complete' then
  percent = '100'
else
  percent = int_text(math.max(tonumber(percent or '0'), tonumber(progress)))
end
redis.call('HSET', UPLOADS, target, to .. ' ' .. percent .. ' ' .. USER)
redis.call('PEXPIRE', UPLOADS, ROOM_TTL)
if to == 'progress' then
  publish(CHANNEL, 'S\n{"event":"upload","from":' .. USER_JSON .. ',"data":{"target":"' .. target
    .. '","state":"progress","progress":' .. percent .. '}}')
elseif to == 'complete' then
  event('upload', USER_JSON, '"target":"' .. target .. '","user":' .. USER_JSON .. ',"at":' .. int_text(now), now)
end
return { 'ok', to, percent }
