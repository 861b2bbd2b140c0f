-- Writes a document if its version is the one that was read. DOCS: doc -> `<version>\n<value>`.
local DOCS = KEYS[10]
local doc, value, version, max_docs = ARGV[12], ARGV[13], ARGV[14], tonumber(ARGV[15])
if is_muted() then
  return { 'muted' }
end
local kept = redis.call('HGET', DOCS, doc)
local current, before = string.match(kept or '0\n', '^(%d+)\n(.*)$')
if current ~= version then
  return { 'conflict', current, before }
elseif not kept and redis.call('HLEN', DOCS) >= max_docs then
  return { 'too_many', 'docs' }
end
local after = int_text(tonumber(current) + 1)
redis.call('HSET', DOCS, doc, after .. '\n' .. value)
redis.call('PEXPIRE', DOCS, ROOM_TTL)
event('doc', USER_JSON, '"doc":"' .. doc .. '","version":' .. after, now_ms())
return { 'ok', after }
