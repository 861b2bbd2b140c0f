-- A lease: acquire, renew or release. KEYS[1]: HASH owner (absent: free), fence, ends. The record outlives the lease
-- by a day, and the fence follows the clock but always rises, so that it rises past any holder that ever was.
local LOCK, act, owner, fence, ttl = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local now = now_ms()
local holder, last, ends = unpack(redis.call('HMGET', LOCK, 'owner', 'fence', 'ends'))
local held = holder and tonumber(ends) > now
local mine = held and holder == owner and (act == 'acquire' or last == fence)
if act == 'release' then
  if not mine then
    return { 'conflict', held and int_text(tonumber(ends) - now) or '0' }
  end
  redis.call('HDEL', LOCK, 'owner')
  return { 'ok', last, int_text(now) }
elseif held and not mine or not held and act == 'renew' then
  return { 'conflict', held and int_text(tonumber(ends) - now) or '0' }
end
if not mine then
  last = int_text(math.max(tonumber(last or '0') + 1, now))
end
ends = int_text(now + ttl)
redis.call('HSET', LOCK, 'owner', owner, 'fence', last, 'ends', ends)
redis.call('PEXPIRE', LOCK, int_text(ttl + 86400000))
return { 'ok', last, ends }
