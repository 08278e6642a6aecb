"""
Requests: events whose caller waits for a reply.

    wire       types of replies, and which messages can be answered
    queue      the queue that replies come to
    rows       the rows of a request, as objects that a session can add
    recording  recording a request in the caller's transaction
    reply      the reply, and how its body is read
    calling    recording a request in a transaction of its own, and waiting for its reply
    reading    waiting for a reply, and reading one that is stored
    waiting    waiters of this process, which are woken when their reply is stored

`outbox.replies` has the names for callers; a consumer stores the replies, see `consumer.replies`.
Imports no settings and no transport: a caller needs its database alone.
"""
