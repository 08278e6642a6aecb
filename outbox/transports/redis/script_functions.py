"""
Keys in the server, and the functions that all scripts share.

    {mq}:version             changes with each declaration; a random text
    {mq}:exchanges           name → kind
    {mq}:queues              name → arguments as JSON
    {mq}:bindings            [exchange, queue, pattern] as JSON
    {mq}:queue:<name>:<level>   the stream of a queue for one level of priority, with one group
    {mq}:expiring            level:id:queue → when its queue dead-letters it, in milliseconds
    {mq}:leases, {mq}:owners    consumer → when its lease ends; its queue
    {mq}:consumers:<name>    the consumers of a queue, in the order in which they joined

A message is an entry of a stream until it is settled, which deletes it. It is *ready* if the group
has not delivered it, or if the pseudo consumer `released` holds it: it was given back, and comes
first, in its old place. Other consumers hold the messages that are leased to them. The count of
deliveries that the group keeps is one more than the number of failed deliveries.
"""

VERSION_KEY = "{mq}:version"
"""The key of all scripts; the others have its hash tag, and so its slot in a cluster."""

LEVELS = ("high", "normal", "low")
"""Levels of priority, in the order of delivery."""

_FUNCTIONS = """
local VERSION, GROUP, RELEASED = KEYS[1], 'consumers', 'released'
local EXPIRING, LEASES, OWNERS = '{mq}:expiring', '{mq}:leases', '{mq}:owners'
local EXCHANGES, QUEUES, BINDINGS = '{mq}:exchanges', '{mq}:queues', '{mq}:bindings'
local LEVELS = {'high', 'normal', 'low'}
local call = redis.call

local function stream_of(queue, level) return '{mq}:queue:' .. queue .. ':' .. level end
local function consumers_of(queue) return '{mq}:consumers:' .. queue end
local function member_of(queue, level, id) return level .. ':' .. id .. ':' .. queue end

local function milliseconds()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function arguments_of(queue)
  return cjson.decode(call('HGET', QUEUES, queue) or '{}')
end

local function is_stale(version)
  return (call('GET', VERSION) or '') ~= version
end

local function has_lease(owner)
  return call('ZSCORE', LEASES, owner)
end

-- A stream has no group while its queue is not declared in this version of the server's data.
-- With any other error the group may hold messages.
local function or_none(found)
  if found.err and found.err:find('NOGROUP', 1, true) ~= 1 then error(found) end
  return found.err and {} or found
end

local function pending(stream, first, last, count, owner)
  if owner then
    return or_none(redis.pcall('XPENDING', stream, GROUP, first, last, count, owner))
  end
  return or_none(redis.pcall('XPENDING', stream, GROUP, first, last, count))
end

local function holder_of(stream, id)
  local found = pending(stream, id, id, 1)[1]
  if found then return found[2], found[4] end
end

local function is_ready(stream, id)
  local holder = holder_of(stream, id)
  return not holder or holder == RELEASED
end

local function last_delivered(stream)
  for _, group in ipairs(call('XINFO', 'GROUPS', stream)) do
    for at = 1, #group, 2 do
      if group[at] == 'last-delivered-id' then return group[at + 1] end
    end
  end
end

local function due_within(queue, level, id, now)
  local due = call('ZSCORE', EXPIRING, member_of(queue, level, id))
  return due and tonumber(due) <= now
end

local function give_back(stream, id, count)
  call('XCLAIM', stream, GROUP, RELEASED, 0, id, 'RETRYCOUNT', count, 'JUSTID')
end

local function settle(queue, level, id)
  local stream = stream_of(queue, level)
  local acked = call('XACK', stream, GROUP, id)
  call('XDEL', stream, id)
  call('ZREM', EXPIRING, member_of(queue, level, id))
  return acked
end

local function make_groups(queue)
  for _, level in ipairs(LEVELS) do
    local made = redis.pcall('XGROUP', 'CREATE', stream_of(queue, level), GROUP, 0, 'MKSTREAM')
    if made.err and not made.err:find('BUSYGROUP') then error(made.err) end
  end
end

-- Adds the message at ARGV[at] to its queues; returns where the next one begins.
local function put(at, now)
  local level, count = ARGV[at], tonumber(ARGV[at + 5])
  for number = 0, count - 1 do
    local queue, ttl = ARGV[at + 6 + 2 * number], tonumber(ARGV[at + 7 + 2 * number])
    local id = call('XADD', stream_of(queue, level), '*', 'exchange', ARGV[at + 1],
      'routing_key', ARGV[at + 2], 'properties', ARGV[at + 3], 'body', ARGV[at + 4])
    if ttl >= 0 then call('ZADD', EXPIRING, now + ttl, member_of(queue, level, id)) end
  end
  return at + 6 + 2 * count
end

-- Gives back what the owner holds, but for the entries in keep; it counts as no failed delivery.
local function give_back_others(owner, queue, keep)
  for _, level in ipairs(LEVELS) do
    local stream, from = stream_of(queue, level), '-'
    repeat
      local found = pending(stream, from, '+', 500, owner)
      for _, each in ipairs(found) do
        if not keep[level .. ':' .. each[1]] then give_back(stream, each[1], each[4]) end
        from = '(' .. each[1]
      end
    until #found < 500
  end
end

-- Removes a consumer. Its messages count as failed: ready again, or due for dead-lettering.
local function leave(owner, now)
  local queue = call('HGET', OWNERS, owner)
  if queue then
    local limit = arguments_of(queue)['x-delivery-limit']
    for _, level in ipairs(LEVELS) do
      local stream = stream_of(queue, level)
      repeat
        local found = pending(stream, '-', '+', 500, owner)
        for _, each in ipairs(found) do
          give_back(stream, each[1], each[4] + 1)
          if limit and each[4] > limit then
            call('ZADD', EXPIRING, now, member_of(queue, level, each[1]))
          end
        end
      until #found < 500
      redis.pcall('XGROUP', 'DELCONSUMER', stream, GROUP, owner)
    end
    call('LREM', consumers_of(queue), 0, owner)
  end
  call('HDEL', OWNERS, owner)
  call('ZREM', LEASES, owner)
end

local function kept(at)
  local keep = {}
  for number = at, #ARGV do keep[ARGV[number]] = true end
  return keep
end
"""

# While memory is full, the server takes no more messages. Consumers go on, which frees memory.
CHECKED = "#!lua\n" + _FUNCTIONS
"""The beginning of a script that the server refuses while memory is full."""
ALLOWED = "#!lua flags=allow-oom\n" + _FUNCTIONS
"""The beginning of a script that it runs all the same."""


def stream(queue: str, level: str) -> str:
    """Return the key of the stream of *queue* for one *level* of priority."""
    return f"{{mq}}:queue:{queue}:{level}"
