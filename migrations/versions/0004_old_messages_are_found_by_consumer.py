"""An index that finds the old rows of one consumer without reading those of others."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "processed_messages_consumer_processed_at",
        "processed_messages",
        ["consumer", "processed_at"],
    )
    op.drop_index("processed_messages_processed_at", "processed_messages")


def downgrade() -> None:
    op.create_index("processed_messages_processed_at", "processed_messages", ["processed_at"])
    op.drop_index("processed_messages_consumer_processed_at", "processed_messages")
