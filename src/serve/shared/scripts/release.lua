-- Ends a lease, unless it is another's by now. KEYS[1]: the lease. ARGV[1]: the epoch and the holder.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
