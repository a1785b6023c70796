-- Stands before look.lua and lead.lua. KEYS[1]: what is kept of the reader. ARGV[1]: the question, ARGV[2]: the greatest age in ms,
-- ARGV[3]: the most bytes of an answer.
--
-- Redis' clock is the only one: servers whose clocks differ agree on ages.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The stored answer and its age, or nil. One that is too large stays where it is: it is empty instead, which no answer is.
local function find()
  local times = redis.call('HGET', KEYS[1], 't' .. ARGV[1])
  if not times then return nil end
  local made, ends = string.match(times, '^(%d+) (%d+)$')
  if not made then return nil end
  local age = now - tonumber(made)
  -- What was made later than now was made before the clock was set back, nobody knows when.
  if age < 0 or age > tonumber(ARGV[2]) or now >= tonumber(ends) then return nil end
  local answer = ''
  if redis.call('HSTRLEN', KEYS[1], 'a' .. ARGV[1]) <= tonumber(ARGV[3]) then
    answer = redis.call('HGET', KEYS[1], 'a' .. ARGV[1]) or ''
  end
  return {answer, string.format('%.0f', age)}
end
