"""The table of the secret that relays digest ordering keys with says that it is a secret."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


# Renaming keeps the row, and with it the lanes of messages that are under way, and the rights.
def upgrade() -> None:
    op.alter_column("ordering_salt", "salt", new_column_name="secret")
    op.rename_table("ordering_salt", "ordering_secret")


def downgrade() -> None:
    op.rename_table("ordering_secret", "ordering_salt")
    op.alter_column("ordering_salt", "secret", new_column_name="salt")
