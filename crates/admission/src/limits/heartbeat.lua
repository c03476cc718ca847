-- KEYS[1]  the gateways that live, a sorted set by the time of their last call (ms)
-- ARGV     this gateway, after how many ms without a call a gateway is forgotten
-- Returns  the server's run, as in lease.lua, and how many live
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2] * 2)
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
return { run, redis.call('ZCARD', KEYS[1]) }
