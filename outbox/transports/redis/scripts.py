"""
The scripts that the server runs: every statement on queues, messages and leases.

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
messages then. Names of consumers are random, as `{mq}:version` is: a failover may undo the last
writes, so a counter could give one name twice.
"""

from outbox.transports.redis.script_functions import ALLOWED, CHECKED

STALE, LOST, MISSING, DONE = b"stale", b"lost", b"missing", b"done"
"""Not the version; no lease; no such queue; done."""

TOPOLOGY = (
    ALLOWED
    + """
return {call('GET', VERSION) or '', call('HGETALL', EXCHANGES), call('HGETALL', QUEUES),
  call('SMEMBERS', BINDINGS)}
"""
)

# version, new version, then any of: exchange name kind, queue name arguments, binding text ''
DECLARE = (
    CHECKED
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
    CHECKED
    + """
if is_stale(ARGV[1]) then return 'stale' end
local at, now = 2, milliseconds()
while at <= #ARGV do at = put(at, now) end
return 'done'
"""
)

# queue, owner, lease
JOIN = (
    ALLOWED
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
    ALLOWED
    + """
if not has_lease(ARGV[1]) then return 'lost' end
call('ZADD', LEASES, milliseconds() + ARGV[2], ARGV[1])
return 'done'
"""
)

# queue, owner, limit, lease
CLAIM = (
    ALLOWED
    + """
local queue, owner, limit, now = ARGV[1], ARGV[2], tonumber(ARGV[3]), milliseconds()
if not has_lease(owner) then return 'lost' end
local overdue = #call('ZRANGEBYSCORE', EXPIRING, '-inf', now, 'LIMIT', 0, 1)
  + #call('ZRANGEBYSCORE', LEASES, '-inf', '(' .. now, 'LIMIT', 0, 1)
local single = arguments_of(queue)['x-single-active-consumer']
if single and call('LINDEX', consumers_of(queue), 0) ~= owner then return {overdue, {}, {}} end
local claimed, last = {}, {}
for _, level in ipairs(LEVELS) do
  local stream, page = stream_of(queue, level), limit
  local released = page > 0 and pending(stream, '-', '+', page, RELEASED) or {}
  for _, each in ipairs(released) do
    local entry = not due_within(queue, level, each[1], now)
      and call('XCLAIM', stream, GROUP, owner, 0, each[1], 'RETRYCOUNT', each[4])[1]
    if entry then
      claimed[#claimed + 1] = {level, entry[1], each[4], 1, entry[2]}
      limit = limit - 1
    end
  end
  -- Behind a full page stand more of them, which come before fresh ones.
  if #released == page then limit = 0 end
  if limit > 0 then
    local fresh = call('XREADGROUP', 'GROUP', GROUP, owner, 'COUNT', limit, 'STREAMS', stream, '>')
    for _, entry in ipairs(fresh and fresh[1][2] or {}) do
      if due_within(queue, level, entry[1], now) then
        give_back(stream, entry[1], 1)
      else
        claimed[#claimed + 1] = {level, entry[1], 1, 0, entry[2]}
        limit = limit - 1
      end
    end
  end
  if limit > 0 then last[#last + 1] = last_delivered(stream) end
end
if #claimed > 0 then call('ZADD', LEASES, now + ARGV[4], owner) end
return {overdue, last, claimed}
"""
)

# queue, owner, then pairs of level and id
ACK = (
    ALLOWED
    + """
if not has_lease(ARGV[2]) then return 'lost' end
local acked = 0
for at = 3, #ARGV, 2 do acked = acked + settle(ARGV[1], ARGV[at], ARGV[at + 1]) end
return acked * 2 == #ARGV - 2 and 'done' or 'lost'
"""
)

# queue, owner, level, id
RELEASE = (
    ALLOWED
    + """
local stream, owner, id = stream_of(ARGV[1], ARGV[3]), ARGV[2], ARGV[4]
local holder, count = holder_of(stream, id)
if not has_lease(owner) or holder ~= owner then return 'lost' end
give_back(stream, id, count)
return 'done'
"""
)

# version, queue, owner, level, id, message
REPLACE = (
    ALLOWED
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
    ALLOWED
    + """
if not has_lease(ARGV[2]) then return 'lost' end
give_back_others(ARGV[2], ARGV[1], kept(3))
return 'done'
"""
)

# queue, owner, entries whose delivery has failed
LEAVE = (
    ALLOWED
    + """
if not has_lease(ARGV[2]) then return 'lost' end
give_back_others(ARGV[2], ARGV[1], kept(3))
leave(ARGV[2], milliseconds())
return 'done'
"""
)

# limit, milliseconds after which leased messages are looked at again
OVERDUE = (
    ALLOWED
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
    ALLOWED
    + """
local queue, level, id, now = ARGV[2], ARGV[3], ARGV[4], milliseconds()
if is_stale(ARGV[1]) then return 'stale' end
if not due_within(queue, level, id, now) or not is_ready(stream_of(queue, level), id) then
  return 'gone'
end
if #ARGV > 4 then put(5, now) end
settle(queue, level, id)
return 'done'
"""
)

# queue, level, id, milliseconds
POSTPONE = (
    ALLOWED
    + """
call('ZADD', EXPIRING, 'XX', milliseconds() + ARGV[4], member_of(ARGV[1], ARGV[2], ARGV[3]))
return 'done'
"""
)

# queue; returns messages, unsettled ones, consumers
DEPTH = (
    ALLOWED
    + """
if call('HEXISTS', QUEUES, ARGV[1]) == 0 then return 'missing' end
local messages, unsettled, consumers = 0, 0, 0
for _, level in ipairs(LEVELS) do
  local stream = stream_of(ARGV[1], level)
  messages = messages + call('XLEN', stream)
  for _, each in ipairs(or_none(redis.pcall('XPENDING', stream, GROUP))[4] or {}) do
    if each[1] ~= RELEASED then unsettled = unsettled + each[2] end
  end
end
for _, owner in ipairs(call('LRANGE', consumers_of(ARGV[1]), 0, -1)) do
  consumers = consumers + (tonumber(has_lease(owner) or 0) >= milliseconds() and 1 or 0)
end
return {messages, unsettled, consumers}
"""
)
