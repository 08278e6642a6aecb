"""
The tables of the outbox, defined once for producers, relay, consumers and migrations.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from outbox.database_time import UtcDateTime, database_now

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


MAX_ATTEMPTS = 1_000_000
"""Attempts are counted up to this number; the table refuses more."""

MAX_HEADERS_BYTES = 65_536
"""Largest headers of a row, as JSON text."""

# SQLite assigns row ids only to columns of the type INTEGER.
Identity = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", Identity, sa.Identity(always=True), primary_key=True),
    sa.Column("event_id", sa.Uuid(), nullable=False, unique=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("exchange", sa.Text),
    sa.Column("routing_key", sa.Text, nullable=False),
    sa.Column("ordering_key", sa.Text),
    sa.Column("idempotency_key", sa.Text, nullable=False),
    sa.Column("correlation_id", sa.Text),
    sa.Column("priority", sa.Text, nullable=False, server_default="normal"),
    sa.Column("headers", Json, nullable=False, server_default="{}"),
    sa.Column("content_type", sa.Text, nullable=False, server_default="application/json"),
    sa.Column("content_encoding", sa.Text),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("occurred_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("created_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("not_before", UtcDateTime),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_error", sa.Text),
    sa.Column("reply_to", sa.Text),
    sa.Column("expires_at", UtcDateTime),
    sa.CheckConstraint("priority IN ('low', 'normal', 'high')", name="priority"),
    sa.CheckConstraint("id > 0", name="id"),
    sa.CheckConstraint(f"attempts BETWEEN 0 AND {MAX_ATTEMPTS}", name="attempts"),
    sqlite_autoincrement=True,
)
"""
Events that the broker has not yet confirmed, in claim order.

A row is ready when `not_before` is null. The relay clears that column when its time has come, so
the predicates of the indexes below are constant, and waiting rows cost a claim no time.
`last_error` holds a reason code, never a driver's text. `reply_to` and `expires_at` are those of a
request: the queue for its reply, and its deadline. The migrations add constraints, and on SQLite
triggers, for the size of each column.
"""


def _partial(name: str, *columns: sa.Column[Any], where: sa.ColumnElement[bool]) -> sa.Index:
    return sa.Index(name, *columns, postgresql_where=where, sqlite_where=where)


ready_index = _partial(
    "outbox_ready",
    outbox.c.id,
    where=outbox.c.not_before.is_(None) & outbox.c.ordering_key.is_(None),
)
ready_keyed_index = _partial(
    "outbox_ready_keyed",
    outbox.c.id,
    where=outbox.c.not_before.is_(None) & outbox.c.ordering_key.is_not(None),
)
ready_key_index = _partial(
    "outbox_ready_key",
    outbox.c.ordering_key,
    outbox.c.id,
    where=outbox.c.not_before.is_(None) & outbox.c.ordering_key.is_not(None),
)
ready_priority_index = _partial(
    "outbox_ready_priority",
    outbox.c.priority,
    outbox.c.id,
    where=outbox.c.not_before.is_(None) & outbox.c.ordering_key.is_(None),
)
urgent_key_index = _partial(
    "outbox_ready_urgent_key",
    outbox.c.priority,
    outbox.c.ordering_key,
    outbox.c.id,
    where=outbox.c.not_before.is_(None)
    & outbox.c.ordering_key.is_not(None)
    & (outbox.c.priority == "high"),
)
key_index = _partial(
    "outbox_ordering_key",
    outbox.c.ordering_key,
    outbox.c.id,
    where=outbox.c.ordering_key.is_not(None),
)
due_index = _partial("outbox_due", outbox.c.not_before, where=outbox.c.not_before.is_not(None))


def message_columns() -> list[sa.Column[Any]]:
    """
    Return columns for a message as it was delivered; each may be null or hold an invalid value.

    See `consumer.storage.stored_message`.
    """
    return [
        sa.Column("message_id", sa.Text),
        sa.Column("type", sa.Text),
        sa.Column("exchange", sa.Text),
        sa.Column("routing_key", sa.Text),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("correlation_id", sa.Text),
        sa.Column("priority", sa.Text),
        sa.Column("headers", Json, nullable=False, server_default="{}"),
        sa.Column("content_type", sa.Text),
        sa.Column("content_encoding", sa.Text),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("occurred_at", UtcDateTime),
        sa.Column("reply_to", sa.Text),
    ]


dead_letters = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("id", Identity, sa.Identity(), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("queue", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("ordering_key", sa.Text),
    *message_columns(),
    sa.Column("first_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("last_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("error_class", sa.Text),
    sa.Column("error_place", sa.Text),
    sa.Column("body_expired_at", UtcDateTime),
    sa.Index("dead_letters_source", "source", "reason", "last_at"),
    sqlite_autoincrement=True,
)
"""
Dead letters, with all the data to show, repair and replay them.

`source` is `relay` or the name of a consumer; `reason` is a reason code. Columns of the message
may be null or hold invalid values: an unreadable message is stored as it was delivered.
`error_class` and `error_place` are the class of the last error of a handler, and the line of the
application that raised it; null if no handler has failed. `body_expired_at` is when the body
was deleted, so that only metadata is left; null while it is there.
"""

ordering_secret = sa.Table(
    "ordering_secret",
    metadata,
    sa.Column("secret", sa.LargeBinary, nullable=False),
    sa.Column(
        "id", sa.SmallInteger, primary_key=True, autoincrement=False, server_default=sa.text("1")
    ),
    sa.CheckConstraint("id = 1", name="one_row"),
)
"""
One row with a random secret, made by the migration and read by all relays of the database.

Relays hash ordering keys with it; consumers see only the hash, the lane.
"""

outbox_targets = sa.Table(
    "outbox_targets",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("since", UtcDateTime, nullable=False, server_default=database_now()),
)
"""
The exchange that the relays of this schema publish to, and the queue of each of its consumers.

`source` is `relay` or the name of a consumer. The first process of a source adds its row.
"""

outbox_processes = sa.Table(
    "outbox_processes",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("seen_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("waiting_for", sa.Text),
    sa.Column("figures", Json, nullable=False, server_default="{}"),
    sa.CheckConstraint("role IN ('relay', 'consumer')", name="role"),
)
"""
The running processes: each one updates its row while it runs, and deletes it when it stops.

`name` is `relay` or the name of the consumer. `waiting_for` names the dependencies that are
unavailable. `figures` has counters since the start; they hold no health data.
"""

outbox_compatibility = sa.Table(
    "outbox_compatibility",
    metadata,
    sa.Column("oldest_revision", sa.Text, nullable=False),
    sa.Column(
        "id", sa.SmallInteger, primary_key=True, autoincrement=False, server_default=sa.text("1")
    ),
    sa.CheckConstraint("id = 1", name="one_row"),
)
"""
One row with the oldest revision whose programs may work on the tables as they are now.

A program that does not know the revision of the tables reads it; see `outbox.database.migrate`.
"""
