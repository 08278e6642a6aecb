"""The audit log, parked messages of ordered consumers, and storage settings of the dedup table."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)

# 32 bytes that the database makes, so that the statements can be printed and run by hand.
NEW_SALT = {
    "postgresql": "uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())",
    "sqlite": "randomblob(32)",
}

# Rows are inserted continuously and deleted by age. With default settings Postgres would vacuum a
# table of millions of rows only after millions of changes, and then for a long time.
DEDUP_STORAGE = """
ALTER TABLE processed_messages SET (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
)
"""

APPEND_ONLY = """
CREATE FUNCTION audit_log_append_only() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log: rows are only added' USING ERRCODE = 'insufficient_privilege';
END
$$
"""
APPEND_ONLY_TRIGGER = """
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION audit_log_append_only()
"""
APPEND_ONLY_ON_SQLITE = """
CREATE TRIGGER audit_log_no_{event} BEFORE {event} ON audit_log
BEGIN SELECT RAISE(ABORT, 'audit_log: rows are only added'); END
"""


def on_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"


def now() -> sa.TextClause:
    if on_postgres():
        return sa.text("clock_timestamp()")
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")


def upgrade() -> None:
    create_audit_log()
    create_parked_messages()
    op.create_table("ordering_salt", sa.Column("salt", sa.LargeBinary, nullable=False))
    salt = NEW_SALT[op.get_context().dialect.name]
    op.execute(f"INSERT INTO ordering_salt (salt) VALUES ({salt})")
    if on_postgres():
        op.execute(DEDUP_STORAGE)


def downgrade() -> None:
    op.drop_table("ordering_salt")
    op.drop_table("parked_messages")
    op.drop_table("audit_log")
    if on_postgres():
        op.execute("DROP FUNCTION audit_log_append_only")
        op.execute(
            "ALTER TABLE processed_messages RESET (autovacuum_vacuum_scale_factor, "
            "autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor)"
        )


def create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", IDENTITY, sa.Identity(), nullable=False),
        sa.Column("at", TIME, nullable=False, server_default=now()),
        sa.Column("run", sa.Uuid(), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("because", sa.Text, nullable=False),
        sa.Column("selection", JSON, nullable=False, server_default="{}"),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="audit_log_pkey"),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_log_run", "audit_log", ["run"])
    if on_postgres():
        op.execute(APPEND_ONLY)
        op.execute(APPEND_ONLY_TRIGGER)
    else:
        for event in ("UPDATE", "DELETE"):
            op.execute(APPEND_ONLY_ON_SQLITE.format(event=event))


def create_parked_messages() -> None:
    op.create_table(
        "parked_messages",
        sa.Column("id", IDENTITY, sa.Identity(), nullable=False),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", TIME, nullable=False, server_default=now()),
        sa.Column("message_id", sa.Text),
        sa.Column("type", sa.Text),
        sa.Column("exchange", sa.Text),
        sa.Column("routing_key", sa.Text),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("correlation_id", sa.Text),
        sa.Column("priority", sa.Text),
        sa.Column("headers", JSON, nullable=False, server_default="{}"),
        sa.Column("content_type", sa.Text),
        sa.Column("content_encoding", sa.Text),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("occurred_at", TIME),
        sa.Column("parked_at", TIME, nullable=False, server_default=now()),
        sa.PrimaryKeyConstraint("id", name="parked_messages_pkey"),
        sqlite_autoincrement=True,
    )
    op.create_index("parked_messages_lane", "parked_messages", ["consumer", "lane", "id"])
