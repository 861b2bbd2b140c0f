-- Adds an entry of a stream of changes to an answer: id, kind, room and data. Returns how long its data is.
local function entry_add(out, entry)
  local fields = {}
  for i = 1, #entry[2], 2 do
    fields[entry[2][i]] = entry[2][i + 1]
  end
  out[#out + 1], out[#out + 2] = entry[1], fields['k']
  out[#out + 1], out[#out + 2] = fields['r'], fields['d']
  return #fields['d']
end

