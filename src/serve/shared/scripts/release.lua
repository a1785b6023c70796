-- Ends a lease, unless it is another's by now. KEYS[1]: the lease. ARGV[1]: its holder, which stands behind the epoch.
local value = redis.call('GET', KEYS[1])
if value and string.sub(value, -#ARGV[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
