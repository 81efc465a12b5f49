-- Reads the book of one app, or commits changes to it if nobody else has changed it meanwhile.
--
-- KEYS[1]  the book: a hash of `meta` and of pages
-- KEYS[2], KEYS[3]  books of earlier versions of this library
-- ARGV[1]  'read', 'commit', or 'begin', to commit the first batch of a book instead of all that is there
-- ARGV[2]  the `meta` that the caller knows
-- ARGV[3]  seconds after which the book expires if nobody uses it
-- ARGV[4]  the caller's name
-- ARGV[5]  how many milliseconds it wants the book for itself, since others were quicker several times
-- ARGV[6]  how many pages follow that the caller needs
-- ARGV...  the names of these pages; then, to be committed, fields and their values
--
-- Answers 1 if it was committed; else `meta`, the time in seconds and microseconds, the identity of the server, whether
-- there is a book of an earlier version, and the pages.

local meta = redis.call('HGET', KEYS[1], 'meta') or ''
local pages = 6 + tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder, till = string.match(redis.call('HGET', KEYS[1], 'turn') or '', '^(.*) (%d+)$')
local is_others = holder and holder ~= ARGV[4] and tonumber(till) > now and tonumber(till) < now + 1000

if ARGV[1] ~= 'read' and meta == ARGV[2] and not is_others then
  if ARGV[1] == 'begin' then
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  end
  redis.call('HSET', KEYS[1], unpack(ARGV, pages + 1))
  redis.call('HDEL', KEYS[1], 'turn')
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  return 1
end

if tonumber(ARGV[5]) > 0 and meta ~= '' and not is_others then
  redis.call('HSET', KEYS[1], 'turn', ARGV[4] .. ' ' .. string.format('%.0f', now + ARGV[5]))
end
local info = redis.pcall('INFO', 'server')  -- not every user may ask
local identity = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
local earlier = meta == '' and redis.call('EXISTS', KEYS[2], KEYS[3]) or 0
return {meta, time[1], time[2], identity, earlier, redis.call('HMGET', KEYS[1], unpack(ARGV, 7, pages))}
