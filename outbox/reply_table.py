"""
The table of requests and their replies, in the database of the caller.
"""

import sqlalchemy as sa

from outbox.database_time import UtcDateTime, database_now
from outbox.tables import metadata

replies = sa.Table(
    "replies",
    metadata,
    sa.Column("correlation_id", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Uuid(), nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
    sa.Column("requested_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("answered_at", UtcDateTime),
    sa.Column("code", sa.Text),
    sa.Column("content_type", sa.Text),
    sa.Column("content_encoding", sa.Text),
    sa.Column("body", sa.LargeBinary),
    sa.CheckConstraint("state IN ('waiting', 'answered', 'failed')", name="state"),
    sa.Index("replies_expires_at", "expires_at"),
)
"""
Requests, each recorded in the transaction of its event, and the reply of each.

`correlation_id` is the one that is sent, which may be a digest; `type` is the type of the request.
A request is `waiting`, even after `expires_at`, until its reply comes: `answered` with a body, or
`failed` with the reason code of its dead letter. A reply replaces a failure, and nothing replaces
a reply.
"""
