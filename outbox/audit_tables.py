"""
The tables of the audit log, in each database that has acts to record.

They stand beside those of the relay, so that `outbox.metadata` has all tables for a producer too;
`outbox.audit` has every statement on them.
"""

import sqlalchemy as sa

from outbox.database_time import UtcDateTime, database_now
from outbox.tables import Identity, Json, metadata

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("id", Identity, sa.Identity(), primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("run", sa.Uuid(), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("because", sa.Text, nullable=False),
    sa.Column("selection", Json, nullable=False, server_default="{}"),
    sa.Column("messages", sa.Integer, nullable=False),
    sa.Column("details", Json, nullable=False, server_default="{}"),
    sa.Column("role", sa.Text, nullable=False, server_default=""),
    sa.Column("previous_hash", sa.LargeBinary),
    sa.Column("hash", sa.LargeBinary),
    sa.Index("audit_log_run", "run"),
    sqlite_autoincrement=True,
)
"""
Actions of people and processes: actor, time, reason and number. Triggers refuse all but INSERT.

One call of a command is a *run*. It adds a row in each of its transactions, so the numbers are
right even if the run is interrupted. `selection` holds the filters, never a key or a body;
`details` has what else an auditor needs, such as numbers by table. `actor` is what a person says,
and `role` is the role of the session on Postgres, and the number of the OS user on SQLite. Each
row holds the hash of the row before and of itself, so that a row that was changed, removed or
moved is found; rows from before revision 0012 have none.
"""

audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column(
        "id", sa.SmallInteger, primary_key=True, autoincrement=False, server_default=sa.text("1")
    ),
    sa.CheckConstraint("id = 1", name="one_row"),
)
"""
One row with the number of rows in the hash chain of `audit_log`, and the hash of the last one.

The transaction that adds a row to the log locks it first; without it the chain is empty.
"""

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("id", Identity, sa.Identity(), primary_key=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("selection", Json, nullable=False),
    sa.Column("because", sa.Text, nullable=False),
    sa.Column("requested_by", sa.Text, nullable=False),
    sa.Column("requested_role", sa.Text, nullable=False),
    sa.Column("requested_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("approved_by", sa.Text),
    sa.Column("approved_role", sa.Text),
    sa.Column("approved_at", UtcDateTime),
    sa.Column("used_at", UtcDateTime),
    sqlite_autoincrement=True,
)
"""
Requests of one person that a second one approves, while MQ_TWO_PERSON is set.

The person is the user and host of the process; the role is that of the session on Postgres, and
the number of the OS user on SQLite.
"""
