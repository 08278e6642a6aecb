"""
Ordered consumers have partitions.

The tables say which there are, which process reads each, and which are drained.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
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
        EXECUTE format(
            'GRANT SELECT, INSERT, UPDATE, DELETE'
            ' ON consumer_generations, consumer_partitions, consumer_members TO %s', role
        );
    END LOOP;
END
$do$
"""


def upgrade() -> None:
    if on_postgres():
        op.execute("SET LOCAL lock_timeout = '5s'")
    create_generations()
    create_partitions()
    create_members()
    if on_postgres():
        # Rows are updated every second; with room in its page, no index entry is.
        op.execute("ALTER TABLE consumer_members SET (fillfactor = 50)")
        op.execute(GRANTS)


def create_generations() -> None:
    op.create_table(
        "consumer_generations",
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("partitions", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("changed_at", TIME, nullable=False, server_default=now()),
        sa.CheckConstraint(
            "state IN ('declared', 'current', 'draining', 'retired')", name="state"
        ),
        sa.PrimaryKeyConstraint("consumer", "generation", name="consumer_generations_pkey"),
    )


def create_partitions() -> None:
    op.create_table(
        "consumer_partitions",
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("owner", sa.Uuid()),
        sa.Column("drained_at", TIME),
        sa.PrimaryKeyConstraint(
            "consumer", "generation", "number", name="consumer_partitions_pkey"
        ),
    )


def create_members() -> None:
    op.create_table(
        "consumer_members",
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("seen_at", TIME, nullable=False, server_default=now()),
        sa.PrimaryKeyConstraint("consumer", "id", name="consumer_members_pkey"),
    )


def downgrade() -> None:
    if on_postgres():
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("consumer_members")
    op.drop_table("consumer_partitions")
    op.drop_table("consumer_generations")


def on_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"


def now() -> sa.TextClause:
    if on_postgres():
        return sa.text("clock_timestamp()")
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")
