-- Seeds counters after a loss of data: each where it is absent or lower, all of them or, where a cap would break,
-- none. The last arguments: target, counter and value of each, no pair twice, then how many there are.
local FIRST, LAST = #ARGV - 3 * tonumber(ARGV[#ARGV]), #ARGV - 1
local new_targets, fresh, changed = 0, {}, 0
for i = FIRST, LAST, 3 do
  local target, counter = ARGV[i], ARGV[i + 1]
  local slot = counter_open(target, counter)
  if slot.version == 0 then
    if not fresh[target] then
      fresh[target] = select(2, string.gsub(slot.others, ';', ''))
      if slot.others == '' then
        new_targets = new_targets + 1
      end
    end
    fresh[target] = fresh[target] + 1
    if fresh[target] > MAX_COUNTERS then
      return { 'too_many', 'counters' }
    end
  end
end
if new_targets > 0 and redis.call('HLEN', COUNTS) + new_targets > MAX_TARGETS then
  return { 'too_many', 'targets' }
end
for i = FIRST, LAST, 3 do
  local target, counter, wanted = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local slot = counter_open(target, counter)
  if slot.version == 0 or slot.value < wanted then
    local value, version = counter_add(slot, wanted - slot.value, now_ms())
    change_append('restore', '{"target":"' .. target .. '","counter":"' .. counter .. '","value":' .. value .. ',"version":' .. version .. '}')
    changed = changed + 1
  end
end
room_touch()
return { 'ok', int_text(changed) }
