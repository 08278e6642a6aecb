"""
The scripts that the server runs: every statement on queues, messages and leases.

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

Each script runs as a whole or not at all: the server looks for memory, disk and replicas before
it begins, and its append-only file has the writes of a script as one transaction. So a crash
leaves no state between these:

    publish    none or all messages of the call stand in all their queues; without a reply the
               publisher does not know which, and publishes again with the same ids
    claim      the messages are ready, or leased to a consumer that extends its lease; without a
               reply the lease ends with the subscription, and they are ready again
    ack        the message is there, and is delivered again; or it is settled
    replace    the message is there and no copy, or the copies and no message
    move       likewise: no two processes that sweep move one message twice
    leave      all messages of a consumer are leased to it, or all are ready

Every write of a consumer is refused once its lease is gone, as another process may hold its
messages then. Consumers have random names, since a failover may undo the last writes: a counter
could give one name twice. `{mq}:version` is random for the same reason.
"""

VERSION_KEY = "{mq}:version"
"""The key of all scripts; the others have its hash tag, and so its slot in a cluster."""

STALE, LOST, MISSING, GONE, DONE = b"stale", b"lost", b"missing", b"gone", b"done"
"""Answers of scripts: not the version; no lease; no such queue; settled meanwhile; done."""

LEVELS = ("high", "normal", "low")
"""Levels of priority, in the order of delivery."""

_COMMON = """
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

-- A stream has no group while nobody has declared its queue in this version of the server's data.
local function pending(stream, first, last, count, owner)
  local found
  if owner then
    found = redis.pcall('XPENDING', stream, GROUP, first, last, count, owner)
  else
    found = redis.pcall('XPENDING', stream, GROUP, first, last, count)
  end
  return found.err and {} or found
end

local function holder_of(stream, id)
  local found = pending(stream, id, id, 1)[1]
  if found then return found[2], found[4] end
end

local function is_ready(stream, id)
  local holder = holder_of(stream, id)
  return not holder or holder == RELEASED
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
_CHECKED = "#!lua\n" + _COMMON
_ALLOWED = "#!lua flags=allow-oom\n" + _COMMON

TOPOLOGY = (
    _ALLOWED
    + """
return {call('GET', VERSION) or '', call('HGETALL', EXCHANGES), call('HGETALL', QUEUES),
  call('SMEMBERS', BINDINGS)}
"""
)

# version, new version, then any of: exchange name kind, queue name arguments, binding text ''
DECLARE = (
    _CHECKED
    + """
if is_stale(ARGV[1]) then return 'stale' end
for at = 3, #ARGV, 3 do
  local kind, name, value = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if kind == 'exchange' then call('HSET', EXCHANGES, name, value) end
  if kind == 'binding' then call('SADD', BINDINGS, name) end
  if kind == 'queue' then
    call('HSET', QUEUES, name, value)
    make_groups(name)
  end
end
call('SET', VERSION, ARGV[2])
return 'done'
"""
)

# version, messages; the version shows that each message goes to all queues that are bound now
PUBLISH = (
    _CHECKED
    + """
if is_stale(ARGV[1]) then return 'stale' end
local at, now = 2, milliseconds()
while at <= #ARGV do at = put(at, now) end
return 'done'
"""
)

# queue, owner, lease
JOIN = (
    _ALLOWED
    + """
if call('HEXISTS', QUEUES, ARGV[1]) == 0 then return 'missing' end
make_groups(ARGV[1])
call('ZADD', LEASES, milliseconds() + ARGV[3], ARGV[2])
call('HSET', OWNERS, ARGV[2], ARGV[1])
call('RPUSH', consumers_of(ARGV[1]), ARGV[2])
return 'done'
"""
)

# owner, lease
EXTEND = (
    _ALLOWED
    + """
if not has_lease(ARGV[1]) then return 'lost' end
call('ZADD', LEASES, milliseconds() + ARGV[2], ARGV[1])
return 'done'
"""
)

# queue, owner, limit, lease
CLAIM = (
    _ALLOWED
    + """
local queue, owner, limit, now = ARGV[1], ARGV[2], tonumber(ARGV[3]), milliseconds()
if not has_lease(owner) then return 'lost' end
call('ZADD', LEASES, now + ARGV[4], owner)
local overdue = #call('ZRANGEBYSCORE', EXPIRING, '-inf', now, 'LIMIT', 0, 1)
  + #call('ZRANGEBYSCORE', LEASES, '-inf', '(' .. now, 'LIMIT', 0, 1)
local single = arguments_of(queue)['x-single-active-consumer']
if single and call('LINDEX', consumers_of(queue), 0) ~= owner then return {overdue, {}, {}} end

local claimed, last = {}, {}
local function is_due(level, id)
  local due = call('ZSCORE', EXPIRING, member_of(queue, level, id))
  return due and tonumber(due) <= now
end
for _, level in ipairs(LEVELS) do
  local stream = stream_of(queue, level)
  for _, each in ipairs(limit > 0 and pending(stream, '-', '+', limit, RELEASED) or {}) do
    if not is_due(level, each[1]) then
      local entry = call('XCLAIM', stream, GROUP, owner, 0, each[1], 'RETRYCOUNT', each[4])[1]
      if entry then
        claimed[#claimed + 1] = {level, entry[1], each[4], 1, entry[2]}
        limit = limit - 1
      end
    end
  end
  if limit > 0 then
    local fresh = call('XREADGROUP', 'GROUP', GROUP, owner, 'COUNT', limit, 'STREAMS', stream, '>')
    for _, entry in ipairs(fresh and fresh[1][2] or {}) do
      if is_due(level, entry[1]) then
        give_back(stream, entry[1], 1)
      else
        claimed[#claimed + 1] = {level, entry[1], 1, 0, entry[2]}
        limit = limit - 1
      end
    end
  end
  if limit > 0 then
    for _, group in ipairs(call('XINFO', 'GROUPS', stream)) do
      for at = 1, #group, 2 do
        if group[at] == 'last-delivered-id' then last[#last + 1] = group[at + 1] end
      end
    end
  end
end
return {overdue, last, claimed}
"""
)

# queue, owner, then pairs of level and id
ACK = (
    _ALLOWED
    + """
if not has_lease(ARGV[2]) then return 'lost' end
local acked = 0
for at = 3, #ARGV, 2 do acked = acked + settle(ARGV[1], ARGV[at], ARGV[at + 1]) end
return acked * 2 == #ARGV - 2 and 'done' or 'lost'
"""
)

# queue, owner, level, id
RELEASE = (
    _ALLOWED
    + """
local stream = stream_of(ARGV[1], ARGV[3])
local holder, count = holder_of(stream, ARGV[4])
if not has_lease(ARGV[2]) or holder ~= ARGV[2] then return 'lost' end
give_back(stream, ARGV[4], count)
return 'done'
"""
)

# version, queue, owner, level, id, message
REPLACE = (
    _ALLOWED
    + """
local queue, owner, level, id = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not has_lease(owner) or holder_of(stream_of(queue, level), id) ~= owner then return 'lost' end
if is_stale(ARGV[1]) then return 'stale' end
put(6, milliseconds())
settle(queue, level, id)
return 'done'
"""
)

# queue, owner, entries to keep
GIVE_BACK = (
    _ALLOWED
    + """
if not has_lease(ARGV[2]) then return 'lost' end
give_back_others(ARGV[2], ARGV[1], kept(3))
return 'done'
"""
)

# queue, owner, entries whose delivery has failed
LEAVE = (
    _ALLOWED
    + """
if not has_lease(ARGV[2]) then return 'lost' end
give_back_others(ARGV[2], ARGV[1], kept(3))
leave(ARGV[2], milliseconds())
return 'done'
"""
)

# limit, milliseconds after which leased messages are looked at again
OVERDUE = (
    _ALLOWED
    + """
local now, found = milliseconds(), {}
for _, owner in ipairs(call('ZRANGEBYSCORE', LEASES, '-inf', '(' .. now, 'LIMIT', 0, ARGV[1])) do
  leave(owner, now)
end
for _, each in ipairs(call('ZRANGEBYSCORE', EXPIRING, '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local level, id, queue = each:match('^(%a+):([%d-]+):(.*)$')
  local stream = stream_of(queue, level)
  local holder, count = holder_of(stream, id)
  if holder and holder ~= RELEASED then
    call('ZADD', EXPIRING, now + ARGV[2], each)
  else
    local entry = call('XRANGE', stream, id, id)[1]
    if entry then
      found[#found + 1] = {queue, level, id, count or 1, entry[2]}
    else
      call('ZREM', EXPIRING, each)
    end
  end
end
return found
"""
)

# version, queue, level, id, the message if it goes anywhere
MOVE = (
    _ALLOWED
    + """
local queue, level, id, now = ARGV[2], ARGV[3], ARGV[4], milliseconds()
if is_stale(ARGV[1]) then return 'stale' end
local due, stream = call('ZSCORE', EXPIRING, member_of(queue, level, id)), stream_of(queue, level)
if not due or tonumber(due) > now or not is_ready(stream, id) then return 'gone' end
if #ARGV > 4 then put(5, now) end
settle(queue, level, id)
return 'done'
"""
)

# queue, level, id, milliseconds
POSTPONE = (
    _ALLOWED
    + """
call('ZADD', EXPIRING, 'XX', milliseconds() + ARGV[4], member_of(ARGV[1], ARGV[2], ARGV[3]))
return 'done'
"""
)

# queue; returns messages, unsettled ones, consumers
DEPTH = (
    _ALLOWED
    + """
if call('HEXISTS', QUEUES, ARGV[1]) == 0 then return 'missing' end
local messages, unsettled, consumers, now = 0, 0, 0, milliseconds()
for _, level in ipairs(LEVELS) do
  local stream = stream_of(ARGV[1], level)
  messages = messages + call('XLEN', stream)
  local summary = redis.pcall('XPENDING', stream, GROUP)
  for _, each in ipairs(not summary.err and summary[4] or {}) do
    if each[1] ~= RELEASED then unsettled = unsettled + each[2] end
  end
end
for _, owner in ipairs(call('LRANGE', consumers_of(ARGV[1]), 0, -1)) do
  local lease = has_lease(owner)
  if lease and tonumber(lease) >= now then consumers = consumers + 1 end
end
return {messages, unsettled, consumers}
"""
)


def stream(queue: str, level: str) -> str:
    """Return the key of the stream of *queue* for one *level* of priority."""
    return f"{{mq}}:queue:{queue}:{level}"
