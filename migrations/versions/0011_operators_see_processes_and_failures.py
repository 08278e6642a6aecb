"""
Operators see which processes run, and why messages fail.

`outbox_processes` has a row for each running process. `failing_messages` has one for each message
that waits for a retry; a dead letter keeps the class and the place of its last error.
`outbox_compatibility` says which older programs may work on these tables, so that a rolling
upgrade can migrate first.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

# Roles that work on these tables already may go on without a new GRANT.
GRANTS = """
DO $do$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT DISTINCT format(
            'GRANT %s TO %s',
            needed.rights,
            CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
        )
        FROM (
            VALUES
                ('outbox', 'DELETE', 'SELECT, INSERT, UPDATE, DELETE ON outbox_processes'),
                (
                    'processed_messages', 'INSERT',
                    'SELECT, INSERT, UPDATE, DELETE ON outbox_processes, failing_messages'
                ),
                ('outbox_relay_version', 'SELECT', 'SELECT ON outbox_compatibility')
        ) AS needed (name, held, rights)
        JOIN pg_class AS relation ON relation.oid = needed.name::regclass
        CROSS JOIN LATERAL aclexplode(relation.relacl) AS acl
        WHERE acl.privilege_type = needed.held AND acl.grantee <> relation.relowner
    LOOP
        EXECUTE statement;
    END LOOP;
END
$do$
"""


def upgrade() -> None:
    if on_postgres():
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("dead_letters", sa.Column("error_class", sa.Text))
    op.add_column("dead_letters", sa.Column("error_place", sa.Text))
    create_failing_messages()
    create_processes()
    create_compatibility()
    if on_postgres():
        # Each row is updated every few seconds; with room in its page, no index entry is.
        op.execute("ALTER TABLE outbox_processes SET (fillfactor = 50)")
        op.execute(GRANTS)


def create_failing_messages() -> None:
    op.create_table(
        "failing_messages",
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text),
        sa.Column("type", sa.Text),
        sa.Column("error_class", sa.Text, nullable=False),
        sa.Column("error_place", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("first_at", TIME, nullable=False, server_default=now()),
        sa.Column("last_at", TIME, nullable=False, server_default=now()),
        sa.Column("due_at", TIME, nullable=False, server_default=now()),
        sa.PrimaryKeyConstraint("consumer", "message", name="failing_messages_pkey"),
    )
    op.create_index(
        "failing_messages_consumer_last_at", "failing_messages", ["consumer", "last_at"]
    )


def create_processes() -> None:
    op.create_table(
        "outbox_processes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("started_at", TIME, nullable=False, server_default=now()),
        sa.Column("seen_at", TIME, nullable=False, server_default=now()),
        sa.Column("waiting_for", sa.Text),
        sa.Column("figures", JSON, nullable=False, server_default="{}"),
        sa.CheckConstraint("role IN ('relay', 'consumer')", name="role"),
        sa.PrimaryKeyConstraint("id", name="outbox_processes_pkey"),
    )


def create_compatibility() -> None:
    op.create_table(
        "outbox_compatibility",
        sa.Column("oldest_revision", sa.Text, nullable=False),
        sa.Column("id", sa.SmallInteger, nullable=False, server_default=sa.text("1")),
        sa.CheckConstraint("id = 1", name="one_row"),
        sa.PrimaryKeyConstraint("id", name="outbox_compatibility_pkey"),
    )
    op.execute("INSERT INTO outbox_compatibility (oldest_revision) VALUES ('0011')")


def downgrade() -> None:
    if on_postgres():
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("outbox_compatibility")
    op.drop_table("outbox_processes")
    op.drop_table("failing_messages")
    op.drop_column("dead_letters", "error_place")
    op.drop_column("dead_letters", "error_class")


def on_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"


def now() -> sa.TextClause:
    if on_postgres():
        return sa.text("clock_timestamp()")
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")
