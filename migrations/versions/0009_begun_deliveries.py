"""The consumer itself counts the deliveries that its processes have begun and not settled."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)

# Roles that run consumers already may go on without a new GRANT.
GRANTS = """
DO $do$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
        FROM pg_class AS relation
        CROSS JOIN LATERAL aclexplode(relation.relacl) AS acl
        WHERE relation.oid = 'processed_messages'::regclass
        AND acl.privilege_type = 'INSERT' AND acl.grantee <> relation.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON begun_deliveries TO %s', role);
    END LOOP;
END
$do$
"""


def upgrade() -> None:
    op.create_table(
        "begun_deliveries",
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("strikes", sa.Integer, nullable=False),
        sa.Column("begun_at", TIME, nullable=False, server_default=now()),
        sa.PrimaryKeyConstraint("consumer", "message", name="begun_deliveries_pkey"),
    )
    if on_postgres():
        op.execute(GRANTS)


def downgrade() -> None:
    op.drop_table("begun_deliveries")


def on_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"


def now() -> sa.TextClause:
    if on_postgres():
        return sa.text("clock_timestamp()")
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")
