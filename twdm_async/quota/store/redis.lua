-- Carries out a list of steps on the ledgers of one app, all or none, and in order.
--
-- KEYS[1]  the clock: hash of now, time, epoch
-- then, for each bucket: facts (hash), settled (sorted set: slot to when its outcome was seen),
--                        in flight (sorted set: slot to when its outcome will have been seen, if it ever is)
-- ARGV[1]  the steps, as JSON
-- ARGV[2]  the epoch that the caller knows, or ""
-- ARGV[3]  the epoch to begin if there is none
-- ARGV[4]  what the clock had reached when the caller was told last, and
-- ARGV[5]  what it cannot have passed now; only if the caller knows an epoch
-- ARGV[6]  the part of a quota that is taken as spent if nothing is known of it
-- ARGV[7]  how many of the keys these are; those behind them are of conversations
--
-- Answers, as JSON: [epoch, now, [an answer for each step]]; or [], if less is known here than the caller was told.

local KEEP_FACTS = 90 * 86400

local function moment(seconds)
  return string.format('%.6f', seconds)
end

local time = redis.call('TIME')
time = time[1] + time[2] / 1000000

local clock = redis.call('HMGET', KEYS[1], 'now', 'time', 'epoch')
local epoch = clock[3]
if ARGV[2] ~= '' and epoch ~= ARGV[2] then
  return '[]'
end
local now = time
if epoch then
  local before = tonumber(clock[1])
  now = math.max(before, before + time - tonumber(clock[2]))
  if ARGV[2] ~= '' then
    if before < tonumber(ARGV[4]) - 0.001 then
      return '[]'  -- this is an older copy of the data
    end
    -- If the server's clock was set forward, the caller knows better how much time has passed.
    now = math.max(before, math.min(now, tonumber(ARGV[5])))
  end
else
  epoch = ARGV[3]
end
redis.call('HSET', KEYS[1], 'now', moment(now), 'time', moment(time), 'epoch', epoch)
redis.call('EXPIRE', KEYS[1], KEEP_FACTS)
redis.call('HSETNX', KEYS[1], 'since', moment(math.floor(time)))
local since = tonumber(redis.call('HGET', KEYS[1], 'since'))  -- messages that were sent before are not known

local buckets = {}

local function bucket_at(index, quotas)
  local bucket = buckets[index]
  if not bucket then
    local facts, settled, flying = KEYS[3 * index - 1], KEYS[3 * index], KEYS[3 * index + 1]
    local known = redis.call('HMGET', facts, 'longest', 'held', 'lifetime')
    bucket = {
      facts = facts, settled = settled, flying = flying,
      longest = tonumber(known[1] or 0), held = tonumber(known[2] or 0), others = {}, lifetime = tonumber(known[3] or 0)
    }
    redis.call('ZREMRANGEBYSCORE', settled, '-inf', moment(now - bucket.longest))
    redis.call('ZREMRANGEBYSCORE', flying, '-inf', moment(now - bucket.longest))
    bucket.nsettled = redis.call('ZCARD', settled)
    bucket.nflying = redis.call('ZCARD', flying)
    buckets[index] = bucket
  end
  for _, quota in ipairs(quotas or {}) do
    if quota[2] > bucket.longest then
      bucket.longest = quota[2]
      redis.call('HSET', bucket.facts, 'longest', quota[2])
      local assumed = math.ceil(quota[1] * tonumber(ARGV[6]) - 1e-9)
      if assumed > 0 then  -- nothing is known of a window that was never kept
        redis.call('HSET', bucket.facts, 'others:' .. quota[2], assumed, 'until:' .. quota[2], moment(now + quota[2]))
        bucket.others[quota[2]] = nil
      end
    end
  end
  return bucket
end

local function others(bucket, per)
  local known = bucket.others[per]
  if not known then
    local found = redis.call('HMGET', bucket.facts, 'others:' .. per, 'until:' .. per)
    known = {tonumber(found[1] or 0), tonumber(found[2] or 0)}
    bucket.others[per] = known
  end
  if known[2] > now then
    return known[1], known[2]
  end
  return 0, now
end

local function counted(bucket, per)
  if per >= bucket.longest then
    return bucket.nsettled, bucket.nflying
  end
  local since = '(' .. moment(now - per)
  return redis.call('ZCOUNT', bucket.settled, since, '+inf'), redis.call('ZCOUNT', bucket.flying, since, '+inf')
end

local function used(bucket, per)
  local settled, flying = counted(bucket, per)
  return settled + flying + others(bucket, per)
end

local function usage(bucket, quota)
  local per = quota[2]
  local settled, flying = counted(bucket, per)
  local spent, ends = others(bucket, per)
  local total, first = settled + spent, bucket.nsettled - settled
  local before = 0
  if spent > 0 then
    before = settled - redis.call('ZCOUNT', bucket.settled, '(' .. moment(ends - per), '+inf')
  end
  local freeing, last = {}, 0
  for part = 0, 8 do
    local number = math.max(1, math.ceil(total * part / 8))
    if total > 0 and number > last then
      last = number
      local place = number - 1
      if place >= before and place < before + spent then
        table.insert(freeing, {number, ends - now})
      else
        if place >= before then
          place = place - spent
        end
        local slot = redis.call('ZRANGE', bucket.settled, first + place, first + place, 'WITHSCORES')
        table.insert(freeing, {number, tonumber(slot[2]) + per - now})
      end
    end
  end
  return {total + flying, flying, math.max(0, bucket.held - now), freeing}
end

local function look(claims)
  local usages = {}
  for _, claim in ipairs(claims) do
    local bucket = bucket_at(claim[1], claim[2])
    for _, quota in ipairs(claim[2]) do
      table.insert(usages, usage(bucket, quota))
    end
  end
  return usages
end

-- A call takes only so many arguments.
local function in_parts(names, count, act)
  local result = 0
  for from = 1, count, 1000 do
    result = result + act(from, math.min(from + 999, count))
  end
  return result
end

local function add(key, seen, names, count)
  return in_parts(names, count, function(from, to)
    local words = {}
    for place = from, to do
      table.insert(words, seen)
      table.insert(words, names[place])
    end
    return redis.call('ZADD', key, unpack(words))
  end)
end

local function remove(key, names)
  return in_parts(names, #names, function(from, to)
    return redis.call('ZREM', key, unpack(names, from, to))
  end)
end

local function lives(bucket, lifetime)
  if lifetime > bucket.lifetime then
    bucket.lifetime = lifetime
    redis.call('HSET', bucket.facts, 'lifetime', lifetime)
  end
end

local steps = {}

function steps.take(claims, names, lifetime, again)
  local room, counts = #names, {}
  if again and redis.call('ZSCORE', bucket_at(claims[1][1], claims[1][2]).flying, names[1]) then
    for _, claim in ipairs(claims) do  -- the first time, only the answer was lost: begin anew
      local bucket = bucket_at(claim[1], claim[2])
      bucket.nflying = bucket.nflying - remove(bucket.flying, names)
    end
  end
  for _, claim in ipairs(claims) do
    local bucket = bucket_at(claim[1], claim[2])
    for _, quota in ipairs(claim[2]) do
      local count = used(bucket, quota[2])
      table.insert(counts, count)
      room = math.min(room, bucket.held > now and 0 or quota[1] - count)
    end
  end
  if room <= 0 then
    return {'looked', look(claims)}
  end
  for _, claim in ipairs(claims) do
    local bucket = bucket_at(claim[1], claim[2])
    bucket.nflying = bucket.nflying + add(bucket.flying, moment(now + lifetime), names, room)
    lives(bucket, lifetime)
  end
  for place, count in ipairs(counts) do
    counts[place] = count + room
  end
  return {'taken', room, counts, room < #names and look(claims)}
end

function steps.look(claims)
  return {'looked', look(claims)}
end

function steps.settle(indices, names, grace)
  for _, index in ipairs(indices) do
    local bucket = bucket_at(index)
    bucket.nflying = bucket.nflying - remove(bucket.flying, names)
    bucket.nsettled = bucket.nsettled + add(bucket.settled, moment(now + grace), names, #names)
    lives(bucket, grace)
  end
end

function steps.give_back(indices, names)
  for _, index in ipairs(indices) do
    local bucket = bucket_at(index)
    bucket.nflying = bucket.nflying - remove(bucket.flying, names)
    bucket.nsettled = bucket.nsettled - remove(bucket.settled, names)
  end
end

function steps.hold(index, seconds)
  local bucket = bucket_at(index)
  bucket.held = math.max(bucket.held, now + seconds)
  redis.call('HSET', bucket.facts, 'held', moment(bucket.held))
end

function steps.tighten(index, quota, remaining, seconds)
  local bucket = bucket_at(index, {quota})
  local per = quota[2]
  local missing = quota[1] - used(bucket, per) - remaining
  if missing > 0 then
    local spent, ends = others(bucket, per)
    local known = {spent + missing, math.max(ends, now + seconds)}
    bucket.others[per] = known
    redis.call('HSET', bucket.facts, 'others:' .. per, known[1], 'until:' .. per, moment(known[2]))
  end
end

-- Conversations: as in credit.py, which says why; a hash of when the person wrote ("opened"), and for each message of
-- when it was begun, when it was made ("?" if that is not known), and whether it is over.
local SHORTER, UNDER_WAY, KEEP_CONVERSATION = 600, 3600, 7 * 86400

local function conversation_at(place)
  return KEYS[tonumber(ARGV[7]) + place + 1]
end

local function note(key, name, begun, made, is_over)
  local words = moment(begun) .. ' ' .. (made and moment(made) or '?') .. ' ' .. (is_over and 'over' or 'out')
  redis.call('HSET', key, name, words)
  redis.call('EXPIRE', key, KEEP_CONVERSATION)
end

local function opened_at(key)
  return tonumber(redis.call('HGET', key, 'opened') or nil)
end

local function sends_of(key)
  local found, sends = redis.call('HGETALL', key), {}
  for place = 1, #found, 2 do
    if found[place] ~= 'opened' then
      local begun, made, state = string.match(found[place + 1], '^(%S+) (%S+) (%S+)$')
      table.insert(sends, {name = found[place], begun = tonumber(begun), made = tonumber(made), over = state == 'over'})
    end
  end
  return sends
end

local function was_before(send, opened)
  return opened and ((send.made and send.made < opened) or send.begun + UNDER_WAY < opened)
end

-- Of those that have come to their end, the latest are enough.
local function forget(key, before, enough)
  local over = {}
  for _, send in ipairs(sends_of(key)) do
    if send.begun < before then
      redis.call('HDEL', key, send.name)
    elseif send.over then
      table.insert(over, send)
    end
  end
  table.sort(over, function(a, b) return (a.made or math.huge) < (b.made or math.huge) end)
  for place = 1, #over - enough do
    redis.call('HDEL', key, over[place].name)
  end
end

function steps.begin_reply(place, name, at, replies, per)
  local key, before = conversation_at(place), at - per - UNDER_WAY
  local opened, count = opened_at(key), 0
  if opened and opened < before then
    opened = nil
    redis.call('HDEL', key, 'opened')
  end
  redis.call('HDEL', key, name)  -- the first time, only the answer was lost
  forget(key, before, replies)
  for _, send in ipairs(sends_of(key)) do
    if not was_before(send, opened) then
      count = count + 1
    end
  end
  note(key, name, at)
  if not opened or opened - SHORTER >= at or at >= opened + per + UNDER_WAY then
    return 'counted'
  end
  return (at < opened + per - SHORTER and count < replies) and 'free' or 'open'
end

function steps.end_reply(place, name, made)
  local key = conversation_at(place)
  local found = redis.call('HGET', key, name)
  local begun = found and tonumber(string.match(found, '^(%S+)')) or 1e12
  note(key, name, begun, type(made) == 'number' and made, true)
end

function steps.withdraw_reply(place, name)
  redis.call('HDEL', conversation_at(place), name)
end

function steps.hear(place, at)
  local key = conversation_at(place)
  local opened = opened_at(key)
  if at >= since and (not opened or at > opened) then
    redis.call('HSET', key, 'opened', moment(at))
    redis.call('EXPIRE', key, KEEP_CONVERSATION)
    for _, send in ipairs(sends_of(key)) do
      if was_before(send, at) then
        redis.call('HDEL', key, send.name)
      end
    end
  end
end

local answers = {}
for place, step in ipairs(cjson.decode(ARGV[1])) do
  answers[place] = steps[step[1]](unpack(step, 2)) or false
end

-- Keys live longer than any of their slots count, also if the machine's clock is set forward by some hours meanwhile.
for _, bucket in pairs(buckets) do
  local keep = math.ceil(2 * (bucket.longest + bucket.lifetime) + 14400)
  redis.call('EXPIRE', bucket.settled, keep)
  redis.call('EXPIRE', bucket.flying, keep)
  redis.call('EXPIRE', bucket.facts, math.max(keep, KEEP_FACTS))
end

return cjson.encode({epoch, moment(now), answers})
