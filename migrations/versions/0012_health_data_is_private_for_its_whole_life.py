"""
The audit log is a hash chain, bodies can be closed to one person alone and can expire.

`audit_head` has the number and the hash of the last row of the chain. `approvals` has requests to
open bodies, and who approved them. A dead letter whose body has expired keeps its metadata.
`outbox_refuse_plaintext` is the function of the trigger that `relay keys require` creates.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

REFUSE_PLAINTEXT = """
CREATE FUNCTION outbox_refuse_plaintext() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'outbox: the body must be encrypted before the INSERT'
        USING ERRCODE = 'check_violation',
        HINT = 'This installation requires encryption; see docs/how-to/encrypt.md.';
END
$$
"""
PIN_SEARCH_PATH = """
DO $do$ BEGIN
    EXECUTE format(
        'ALTER FUNCTION outbox_refuse_plaintext SET search_path = %I, pg_temp', current_schema()
    );
END $do$
"""
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
                ('INSERT', 'SELECT, INSERT, UPDATE ON audit_head, approvals'),
                ('SELECT', 'SELECT ON audit_head, approvals')
        ) AS needed (held, rights)
        CROSS JOIN pg_class AS relation
        CROSS JOIN LATERAL aclexplode(relation.relacl) AS acl
        WHERE relation.oid = 'audit_log'::regclass
            AND acl.privilege_type = needed.held AND acl.grantee <> relation.relowner
    LOOP
        EXECUTE statement;
    END LOOP;
END
$do$
"""


def upgrade() -> None:
    if on_postgres():
        op.execute("SET LOCAL lock_timeout = '5s'")
        op.execute(REFUSE_PLAINTEXT)
        op.execute(PIN_SEARCH_PATH)
    op.add_column("dead_letters", sa.Column("body_expired_at", TIME))
    op.add_column(
        "audit_log", sa.Column("details", JSON, nullable=False, server_default=sa.text("'{}'"))
    )
    op.add_column("audit_log", sa.Column("previous_hash", sa.LargeBinary))
    op.add_column("audit_log", sa.Column("hash", sa.LargeBinary))
    create_audit_head()
    create_approvals()
    if on_postgres():
        op.execute(GRANTS)


def create_audit_head() -> None:
    op.create_table(
        "audit_head",
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("id", sa.SmallInteger, nullable=False, server_default=sa.text("1")),
        sa.CheckConstraint("id = 1", name="one_row"),
        sa.PrimaryKeyConstraint("id", name="audit_head_pkey"),
    )


def create_approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", IDENTITY, sa.Identity(), nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("selection", JSON, nullable=False),
        sa.Column("because", sa.Text, nullable=False),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("requested_role", sa.Text, nullable=False),
        sa.Column("requested_at", TIME, nullable=False, server_default=now()),
        sa.Column("approved_by", sa.Text),
        sa.Column("approved_role", sa.Text),
        sa.Column("approved_at", TIME),
        sa.Column("used_at", TIME),
        sa.PrimaryKeyConstraint("id", name="approvals_pkey"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    if on_postgres():
        op.execute("SET LOCAL lock_timeout = '5s'")
        op.execute("DROP TRIGGER IF EXISTS outbox_refuse_plaintext ON outbox")
        op.execute("DROP FUNCTION outbox_refuse_plaintext")
    op.drop_table("approvals")
    op.drop_table("audit_head")
    op.drop_column("audit_log", "hash")
    op.drop_column("audit_log", "previous_hash")
    op.drop_column("audit_log", "details")
    op.drop_column("dead_letters", "body_expired_at")


def on_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"


def now() -> sa.TextClause:
    if on_postgres():
        return sa.text("clock_timestamp()")
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")
