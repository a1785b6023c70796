-- KEYS[1]: what is kept of the reader, KEYS[2]: the lease. ARGV: the question, the epoch of the claim, its holder, when the answer was made
-- and when it ends, both in ms of Redis' clock, the answer, the most answers of a reader.
local question, epoch, holder, made, ends, answer, most = unpack(ARGV)
if redis.call('GET', KEYS[2]) == epoch .. holder then redis.call('DEL', KEYS[2]) end
if redis.call('HGET', KEYS[1], 'epoch') ~= epoch then return 'outdated' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- It was long on its way.
if now >= tonumber(ends) then return 'outdated' end

local function drop(other) redis.call('HDEL', KEYS[1], 'a' .. other, 't' .. other) end

-- What has ended goes, and where there is no place for one more, what ends first.
local count, first, first_ends = 0, nil, nil
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local other = string.sub(field, 2)
  if string.sub(field, 1, 1) == 't' and other ~= question then
    local other_ends = tonumber(string.match(redis.call('HGET', KEYS[1], field), '^%d+ (%d+)$'))
    if not other_ends or other_ends <= now then
      drop(other)
    else
      count = count + 1
      if not first or other_ends < first_ends then first, first_ends = other, other_ends end
    end
  end
end
if count >= tonumber(most) then drop(first) end

redis.call('HSET', KEYS[1], 'a' .. question, answer, 't' .. question, made .. ' ' .. ends)
if redis.call('PTTL', KEYS[1]) < ends - now then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ends - now)) end
return 'stored'
