-- A room at one moment: each part is a script of its own, run as a function in this one step. ARGV begins with how many
-- keys and arguments each of the three takes. Answers the length of each list, and then the list: where the log
-- stands, who is there, counters, items.
local key, arg = 0, 6
local function take(part)
  local keys, args = {}, {}
  for i = 1, tonumber(ARGV[2 * part - 1]) do
    keys[i] = KEYS[key + i]
  end
  for i = 1, tonumber(ARGV[2 * part]) do
    args[i] = ARGV[arg + i]
  end
  key, arg = key + #keys, arg + #args
  return keys, args
end

local answer = {}
local function add(list)
  answer[#answer + 1] = int_text(#list)
  for _, word in ipairs(list) do
    answer[#answer + 1] = word
  end
end
add(log_part(take(1)))
add(presence_part(take(2)))
local counters, items = tally_part(take(3))
add(counters)
add(items)
return answer
