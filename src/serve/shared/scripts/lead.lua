-- KEYS[2]: the lease. ARGV[4]: an epoch for a reader who has none, ARGV[5]: whose lease it would be, ARGV[6]: how long in ms, 0 for none,
-- ARGV[7]: how long in ms a claim can be used.
local found = find()
if found then return {'found', found[1], found[2]} end

-- There is always an epoch while somebody generates. So answers of an older one are told from newer ones, and where Redis has lost it
-- nothing that was begun before is stored.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[4]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[7]) then redis.call('PEXPIRE', KEYS[1], ARGV[7]) end

local word = 'led'
if tonumber(ARGV[6]) > 0 and not redis.call('SET', KEYS[2], epoch .. ARGV[5], 'NX', 'PX', ARGV[6]) then
  local holder = redis.call('GET', KEYS[2])
  if string.sub(holder, 1, #epoch) == epoch then
    word = 'busy'
  else
    -- Whoever holds it generates for an epoch that has ended, and will store nothing.
    redis.call('SET', KEYS[2], epoch .. ARGV[5], 'PX', ARGV[6])
  end
end
return {word, epoch, string.format('%.0f', now)}
