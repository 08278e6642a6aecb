"""
Requests are answered.

`reply_to` and `expires_at` of an outbox row make it a request. `replies` has a row for each
request of this database, recorded in the same transaction, and keeps the reply for its caller.
Dead letters and parked messages keep `reply_to`: they are answered when they are handled later.

The database refuses a deadline that no relay can read, and a longer queue than AMQP has.

ANALYZE keeps no values of bodies and correlation ids, as 0013 has it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
TABLES = ("outbox", "dead_letters", "parked_messages")

MAX_QUEUE_BYTES = 255
ON_POSTGRES = {
    "reply_to": f"octet_length(reply_to) <= {MAX_QUEUE_BYTES}",
    "expires_at": "expires_at BETWEEN '1970-01-02 00:00:00+00' AND '9998-12-31 00:00:00+00'",
}
# The rules of 0005 for times and of 0007 for texts; triggers, as SQLite adds no constraint.
SECONDS, FRACTION = "substr({0}, 1, 19)", "substr({0}, 20)"
ON_SQLITE = {
    "reply_to": f"{{0}} IS NULL OR length(CAST({{0}} AS BLOB)) <= {MAX_QUEUE_BYTES}",
    "expires_at": (
        "{0} IS NULL OR typeof({0}) = 'text' AND instr({0}, char(0)) = 0 AND {0} GLOB"
        " '[1-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'"
        f" AND strftime('%Y-%m-%d %H:%M:%S', {SECONDS}, '+0 seconds') IS {SECONDS}"
        f" AND ({FRACTION} = '' OR"
        f" {FRACTION} GLOB '.[0-9]*' AND substr({{0}}, 21) NOT GLOB '*[^0-9]*')"
    ),
}

# Roles that work on these tables already may go on without a new GRANT. A caller reads replies,
# and changes none; the consumer that collects them changes them.
GRANTS = """
DO $do$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT DISTINCT format(
            'GRANT %s ON replies TO %s',
            needed.rights,
            CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
        )
        FROM (
            VALUES
                ('outbox', 'INSERT', 'SELECT, INSERT'),
                ('processed_messages', 'INSERT', 'SELECT, INSERT, UPDATE, DELETE')
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
    # First, since it may be run again and commits what was done before: the table and the number
    # of the revision then come together.
    add_columns()
    if on_postgres():
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "replies",
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
        sa.Column("requested_at", TIME, nullable=False, server_default=now()),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("answered_at", TIME),
        sa.Column("code", sa.Text),
        sa.Column("content_type", sa.Text),
        sa.Column("content_encoding", sa.Text),
        sa.Column("body", sa.LargeBinary),
        sa.CheckConstraint(
            "state IN ('waiting', 'answered', 'failed')", name="replies_state_check"
        ),
        sa.PrimaryKeyConstraint("correlation_id", name="replies_pkey"),
    )
    op.create_index("replies_expires_at", "replies", ["expires_at"])
    if on_postgres():
        change_one_table(
            "ALTER TABLE replies ALTER COLUMN body SET STATISTICS 0,"
            " ALTER COLUMN correlation_id SET STATISTICS 0"
        )
        op.execute(GRANTS)


def add_columns() -> None:
    """Each table in a transaction of its own: a process may lock two of them in another order."""
    if not on_postgres():
        for table in TABLES:
            op.add_column(table, sa.Column("reply_to", sa.Text))
        op.add_column("outbox", sa.Column("expires_at", TIME))
        add_triggers()
        return
    with op.get_context().autocommit_block():
        for table in TABLES:
            expires = ", ADD COLUMN IF NOT EXISTS expires_at timestamptz" * (table == "outbox")
            change_one_table(
                f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS reply_to text{expires}"
            )
        for column, check in ON_POSTGRES.items():
            name = f"outbox_{column}_check"
            change_one_table(
                f"ALTER TABLE outbox DROP CONSTRAINT IF EXISTS {name},"
                f" ADD CONSTRAINT {name} CHECK ({check}) NOT VALID"
            )
        for column, check in ON_POSTGRES.items():
            # Rows that came between the statements, and would stop every relay.
            op.execute(f"UPDATE outbox SET {column} = NULL WHERE NOT ({check})")
            change_one_table(f"ALTER TABLE outbox VALIDATE CONSTRAINT outbox_{column}_check")


def add_triggers() -> None:
    for column, check in ON_SQLITE.items():
        for event, when in (("insert", "INSERT"), ("update", f"UPDATE OF {column}")):
            op.execute(
                f"CREATE TRIGGER outbox_{column}_{event} BEFORE {when} ON outbox"
                f" WHEN NOT ({check.format(f'NEW.{column}')}) BEGIN"
                f" SELECT RAISE(ABORT, 'outbox_{column}: is too large or cannot be read'); END"
            )


def downgrade() -> None:
    drop_columns()
    if on_postgres():
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("replies")


def drop_columns() -> None:
    """Like `add_columns`; the constraints on Postgres go with their columns."""
    if not on_postgres():
        for column in ON_SQLITE:
            for event in ("insert", "update"):
                op.execute(f"DROP TRIGGER outbox_{column}_{event}")
        op.drop_column("outbox", "expires_at")
        for table in TABLES:
            op.drop_column(table, "reply_to")
        return
    with op.get_context().autocommit_block():
        for table in TABLES:
            expires = ", DROP COLUMN IF EXISTS expires_at" * (table == "outbox")
            change_one_table(f"ALTER TABLE {table} DROP COLUMN IF EXISTS reply_to{expires}")


def change_one_table(statement: str) -> None:
    op.execute(f"""
        DO $do$ BEGIN
            PERFORM set_config('lock_timeout', '5s', true);
            {statement};
        END $do$
    """)


def on_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"


def now() -> sa.TextClause:
    if on_postgres():
        return sa.text("clock_timestamp()")
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")
