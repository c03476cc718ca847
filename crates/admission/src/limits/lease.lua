-- Grants a lease from a studio's counters. `SharedState::lease` in shared.rs is its definition and
-- says why it is right; the two must give the same answers.
--
-- KEYS[1]  the studio's state, a hash: birth, run (of which server), last, oldest, rn en (units in
--          the window), rt et (token parts), and r<bucket> e<bucket> (units booked in a sub-bucket)
-- ARGV     now (ms; 0: the server's own clock), ttl (ms),
--          for requests and then for events: limit, burst, need, want, fresh,
--          number of closings, each: birth, bucket, used r, used e, unused r, unused e, age (ms),
--          number of seeds, each: age (ms), r, e
-- Returns  the server's run, and { birth, bucket, granted r, e, room r, e, wait r, e (ms) }
local WINDOW, BUCKET, TOKEN, GREED, FORGET = 60000, 200, 60000, 8, 65000
local key = KEYS[1]
local clock = redis.call('TIME')
local now = tonumber(ARGV[1])
if now == 0 then now = clock[1] * 1000 + math.floor(clock[2] / 1000) end
local ttl = tonumber(ARGV[2])
-- Another with every start and on every server; nothing where the caller may not know it.
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''

local function text(number) return string.format('%.0f', number) end

local kinds = {}
for k = 1, 2 do
  local a = 3 + (k - 1) * 5
  kinds[k] = {
    field = k == 1 and 'r' or 'e',
    limit = tonumber(ARGV[a]), burst = tonumber(ARGV[a + 1]),
    need = tonumber(ARGV[a + 2]), want = tonumber(ARGV[a + 3]),
    fresh = tonumber(ARGV[a + 4]),
  }
end

-- A state read back from a disk, or from a primary that is gone, may lack what was booked last. It
-- begins anew, under another birth, and all gateways book their own counts in it.
local state = redis.call('HMGET', key, 'birth', 'last', 'oldest', 'rn', 'en', 'rt', 'et', 'run')
local birth, last, oldest
if state[1] and state[8] == run and tonumber(state[2]) <= now + WINDOW then
  birth, last, oldest = tonumber(state[1]), tonumber(state[2]), tonumber(state[3])
  if last > now then now = last end
  for k = 1, 2 do
    kinds[k].total = tonumber(state[3 + k])
    kinds[k].parts = tonumber(state[5 + k])
  end
else
  if state[1] then redis.call('DEL', key) end
  birth, last, oldest = clock[1] * 1000000 + clock[2], now, math.floor((now - WINDOW) / BUCKET)
  for k = 1, 2 do
    kinds[k].total = 0
    kinds[k].parts = kinds[k].fresh
  end
end

-- Sub-buckets that have left the window.
local first = math.floor((now - WINDOW) / BUCKET)
if first - oldest > 2000 then
  redis.call('DEL', key)
  for k = 1, 2 do kinds[k].total = 0 end
else
  for bucket = oldest, first - 1 do
    local r, e = 'r' .. text(bucket), 'e' .. text(bucket)
    local gone = redis.call('HMGET', key, r, e)
    if gone[1] or gone[2] then
      kinds[1].total = kinds[1].total - (tonumber(gone[1] or 0))
      kinds[2].total = kinds[2].total - (tonumber(gone[2] or 0))
      redis.call('HDEL', key, r, e)
    end
  end
end

for k = 1, 2 do
  local kind = kinds[k]
  kind.parts = math.min(kind.burst * TOKEN, kind.parts + kind.limit * (now - last))
end

local function book(kind, bucket, units)
  if units ~= 0 and bucket >= first then
    redis.call('HINCRBY', key, kind.field .. text(bucket), text(units))
    kind.total = kind.total + units
  end
end

local at = 13
local closings = tonumber(ARGV[at])
at = at + 1
for _ = 1, closings do
  if tonumber(ARGV[at]) == birth then
    local bucket = tonumber(ARGV[at + 1])
    local last_use = math.min(bucket, math.floor(math.max(0, now - tonumber(ARGV[at + 6])) / BUCKET))
    for k = 1, 2 do
      local kind = kinds[k]
      local used, unused = tonumber(ARGV[at + 1 + k]), tonumber(ARGV[at + 3 + k])
      kind.parts = math.min(kind.burst * TOKEN, kind.parts + unused * TOKEN)
      if bucket >= first then
        -- Never more than is there, or what others used would be forgotten with it.
        local field = kind.field .. text(bucket)
        local held = tonumber(redis.call('HGET', key, field) or 0)
        book(kind, bucket, -math.min(held, used + unused))
        book(kind, last_use, used)
      end
    end
  end
  at = at + 7
end

local seeds = tonumber(ARGV[at])
at = at + 1
for _ = 1, seeds do
  local bucket = math.floor(math.max(0, now - tonumber(ARGV[at])) / BUCKET)
  book(kinds[1], bucket, tonumber(ARGV[at + 1]))
  book(kinds[2], bucket, tonumber(ARGV[at + 2]))
  at = at + 3
end

local function room(kind)
  return math.max(0, math.min(kind.limit - kind.total, math.floor(kind.parts / TOKEN)))
end

local starved = false
for k = 1, 2 do
  local kind = kinds[k]
  kind.room = room(kind)
  kind.got = math.min(kind.need, kind.room)
  if kind.need > 0 and kind.got == 0 then starved = true end
end
local bucket = math.floor((now + ttl) / BUCKET)
for k = 1, 2 do
  local kind = kinds[k]
  if starved then
    kind.got = 0
  else
    local spare = math.floor((kind.room - kind.got) / GREED)
    kind.got = kind.got + math.min(math.max(0, kind.want - kind.need), spare)
  end
  book(kind, bucket, kind.got)
  kind.parts = kind.parts - kind.got * TOKEN
end

-- How long until a kind without room may have some: a token, and the oldest units leaving.
local function wait(kind)
  local ms = math.max(0, math.ceil((TOKEN - kind.parts) / kind.limit))
  if kind.total >= kind.limit then
    for b = first, bucket do
      local units = tonumber(redis.call('HGET', key, kind.field .. text(b)) or 0)
      if units > 0 then
        return math.max(ms, (b + 1) * BUCKET + WINDOW - now)
      end
    end
  end
  return ms
end

redis.call('HSET', key, 'birth', text(birth), 'run', run, 'last', text(now), 'oldest', text(first),
  'rn', text(kinds[1].total), 'en', text(kinds[2].total),
  'rt', text(kinds[1].parts), 'et', text(kinds[2].parts))
redis.call('PEXPIRE', key, FORGET + ttl)

return { run, { birth, bucket, kinds[1].got, kinds[2].got, room(kinds[1]), room(kinds[2]),
  wait(kinds[1]), wait(kinds[2]) } }
