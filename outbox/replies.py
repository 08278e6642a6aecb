"""
The replies to requests, as callers read them from their database.

    asked = outbox.request_in(session, event, timeout=timedelta(seconds=10))
    ...                                                                    # the caller's COMMIT
    reply = await outbox.replies.wait(sessions, asked.correlation_id)

Any process with the database may wait, in the one that has asked or in another. A consumer stores
the replies, see `consumer.replies`.
"""

from outbox.requests.reading import RETENTION, get, purge, wait

__all__ = ["RETENTION", "get", "purge", "wait"]
