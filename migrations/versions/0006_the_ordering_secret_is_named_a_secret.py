"""The secret with which relays hash ordering keys is named a secret, no longer a salt."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


# Renaming keeps the row, and so the lanes of messages in transit, and the privileges.
def upgrade() -> None:
    limit_lock_wait()
    op.alter_column("ordering_salt", "salt", new_column_name="secret")
    op.rename_table("ordering_salt", "ordering_secret")


def downgrade() -> None:
    limit_lock_wait()
    op.rename_table("ordering_secret", "ordering_salt")
    op.alter_column("ordering_salt", "secret", new_column_name="salt")


def limit_lock_wait() -> None:
    """
    Wait at most 5 seconds for the table lock.

    A migration that waits blocks every later statement. It can be run again after a timeout.
    """
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")
