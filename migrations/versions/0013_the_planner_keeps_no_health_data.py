"""
ANALYZE keeps no values of bodies, headers and correlation ids.

Postgres keeps values of columns in `pg_statistic`, and keeps them when the rows are deleted, also
after VACUUM and ANALYZE of a table that has become empty. No statement of ours has a condition on
these columns, so no plan changes. The type of each column stays: to name it again removes what was
collected, without writing the table again.

Each table has a transaction of its own, and the migration can be run again after a timeout.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TABLES = ("outbox", "dead_letters", "parked_messages")
TYPES = {"body": "bytea", "headers": "jsonb", "correlation_id": "text"}


def upgrade() -> None:
    changes = [
        f"ALTER COLUMN {name} SET STATISTICS 0, ALTER COLUMN {name} TYPE {type_}"
        for name, type_ in TYPES.items()
    ]
    change_each_table(changes)


def downgrade() -> None:
    change_each_table([f"ALTER COLUMN {name} SET STATISTICS -1" for name in TYPES])


def change_each_table(changes: list[str]) -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    with op.get_context().autocommit_block():
        for table in TABLES:
            # Behind a migration that waits, all other statements wait as well.
            op.execute(f"""
                DO $do$ BEGIN
                    PERFORM set_config('lock_timeout', '5s', true);
                    ALTER TABLE {table} {", ".join(changes)};
                END $do$
            """)
