"""
Urgent events are claimed first.

`outbox_ready_priority` has the ready rows without an ordering key in the order of their priority,
and `outbox_ready_urgent_key` the few rows of high priority with one. Relays of the version before
claim by `outbox_ready`, which stays for them and for measurements.

While an index is built, inserts wait: about a second for a million rows. An outbox is short.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

READY = sa.text("not_before IS NULL AND ordering_key IS NULL")
URGENT = sa.text("not_before IS NULL AND ordering_key IS NOT NULL AND priority = 'high'")


def upgrade() -> None:
    wait_briefly()
    index("outbox_ready_priority", ["priority", "id"], READY)
    index("outbox_ready_urgent_key", ["priority", "ordering_key", "id"], URGENT)


def downgrade() -> None:
    wait_briefly()
    op.drop_index("outbox_ready_urgent_key", "outbox")
    op.drop_index("outbox_ready_priority", "outbox")


def index(name: str, columns: list[str], where: sa.TextClause) -> None:
    op.create_index(name, "outbox", columns, postgresql_where=where, sqlite_where=where)


def wait_briefly() -> None:
    """Behind a migration that waits for a lock, all other statements wait as well."""
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")
