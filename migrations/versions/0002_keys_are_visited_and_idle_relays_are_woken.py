"""An index to skip from key to key, and on Postgres a trigger that wakes an idle relay."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

READY_WITH_KEY = sa.text("not_before IS NULL AND ordering_key IS NOT NULL")

# An idle relay holds the lock and is notified of each insert. While the relay is busy, the lock is
# free: a transaction pays for one attempt at a shared lock, not for NOTIFY, whose queue has a lock
# that all committing transactions wait for.
# The shared lock lasts until the transaction ends. A relay that gets the exclusive lock knows that
# every transaction that did not notify it has ended, so it polls once more and then waits.
WAKE_RELAY = """
CREATE FUNCTION outbox_wake_relay() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(
        (1870033506::bigint << 32) + TG_RELID::bigint
    ) THEN
        PERFORM pg_catalog.pg_notify('outbox', TG_RELID::text);
    END IF;
    RETURN NULL;
END
$$
"""
TRIGGER = """
CREATE TRIGGER outbox_wake_relay AFTER INSERT ON outbox
FOR EACH STATEMENT EXECUTE FUNCTION outbox_wake_relay()
"""


def index(name: str, columns: list[str]) -> None:
    op.create_index(
        name, "outbox", columns, postgresql_where=READY_WITH_KEY, sqlite_where=READY_WITH_KEY
    )


def upgrade() -> None:
    index("outbox_ready_key", ["ordering_key", "id"])
    if op.get_context().dialect.name == "postgresql":
        op.execute(WAKE_RELAY)
        op.execute(TRIGGER)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP TRIGGER outbox_wake_relay ON outbox")
        op.execute("DROP FUNCTION outbox_wake_relay")
    op.drop_index("outbox_ready_key", "outbox")
