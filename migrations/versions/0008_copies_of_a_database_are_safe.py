"""
A copy of a database, by logical replication or from a dump, is complete and is not mixed up.

- `ordering_secret` has a primary key, without which a publication refuses to change its row.
- `outbox_targets` records where each relay and consumer of this schema belongs.
- On Postgres, `outbox_repair_ids()` repairs ids after a copy that lacks the sequences.
- The triggers of `audit_log` also refuse changes in a session that replicates, and REPLACE.
"""

import sqlalchemy as sa
from alembic import op

from outbox.errors import SchemaMismatch

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)

# New rows would get lower ids than rows that wait, and ids are the order of publication. Rows that
# were inserted with such ids get new ones, in the order in which they were inserted.
# The lock waits for open transactions that have inserted rows, and blocks new ones meanwhile, so
# that the counter cannot change between the statements.
REPAIR_IDS = """
CREATE FUNCTION outbox_repair_ids() RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
    name text;
    inserted_at text;
    counter bigint;
    highest bigint;
    row_id bigint;
    moved bigint := 0;
BEGIN
    FOR name, inserted_at IN VALUES
        ('outbox', 'created_at'),
        ('parked_messages', 'parked_at'),
        ('dead_letters', NULL),
        ('audit_log', NULL)
    LOOP
        EXECUTE format('LOCK TABLE %I IN SHARE ROW EXCLUSIVE MODE', name);
        EXECUTE format('SELECT max(id) FROM %I', name) INTO highest;
        EXECUTE format(
            'SELECT last_value - (NOT is_called)::integer FROM %s',
            pg_get_serial_sequence(name, 'id')::regclass
        ) INTO counter;
        CONTINUE WHEN highest IS NULL OR highest <= counter;
        PERFORM setval(pg_get_serial_sequence(name, 'id'), highest);
        CONTINUE WHEN inserted_at IS NULL;
        FOR row_id IN EXECUTE format(
            'SELECT id FROM %1$I WHERE id <= $1'
            ' AND %2$I > (SELECT %2$I FROM %1$I WHERE id = $2) ORDER BY %2$I, id',
            name, inserted_at
        ) USING counter, highest
        LOOP
            EXECUTE format('UPDATE %I SET id = DEFAULT WHERE id = $1', name) USING row_id;
            moved := moved + 1;
        END LOOP;
    END LOOP;
    RETURN moved;
END
$$
"""
PIN_SEARCH_PATH = """
DO $do$ BEGIN
    EXECUTE format(
        'ALTER FUNCTION outbox_repair_ids SET search_path = %I, pg_temp', current_schema()
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
            SELECT name, 'SELECT', 'SELECT ON SEQUENCE ' || pg_get_serial_sequence(name, 'id')
            FROM unnest(ARRAY['outbox', 'dead_letters', 'parked_messages', 'audit_log']) AS name
            UNION ALL VALUES
                ('outbox', 'DELETE', 'SELECT, INSERT ON outbox_targets'),
                ('processed_messages', 'INSERT', 'SELECT, INSERT ON outbox_targets')
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

# NEW.id is -1 in a trigger BEFORE INSERT if the statement names no id.
NO_REPLACE_ON_SQLITE = """
CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'audit_log: rows are only added'); END
"""
POSITIVE_ID_ON_SQLITE = """
CREATE TRIGGER audit_log_positive_id AFTER INSERT ON audit_log
WHEN NEW.id < 1
BEGIN SELECT RAISE(ABORT, 'audit_log: ids are positive'); END
"""


def on_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"


def now() -> sa.TextClause:
    if on_postgres():
        return sa.text("clock_timestamp()")
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")


def upgrade() -> None:
    refuse_two_secrets()
    create_targets()
    if on_postgres():
        upgrade_postgres()
    else:
        upgrade_sqlite()


def refuse_two_secrets() -> None:
    if op.get_context().as_sql:
        return
    if (op.get_bind().scalar(sa.text("SELECT count(*) FROM ordering_secret")) or 0) > 1:
        raise SchemaMismatch(
            "ordering_secret: there must be one row: delete those that no relay has read"
        )


def create_targets() -> None:
    op.create_table(
        "outbox_targets",
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("since", TIME, nullable=False, server_default=now()),
        sa.PrimaryKeyConstraint("source", name="outbox_targets_pkey"),
    )


def upgrade_postgres() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(
        "ALTER TABLE ordering_secret ADD COLUMN id smallint NOT NULL DEFAULT 1,"
        " ADD CONSTRAINT ordering_secret_one_row_check CHECK (id = 1),"
        " ADD CONSTRAINT ordering_secret_pkey PRIMARY KEY (id)"
    )
    op.execute("ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only")
    op.execute(REPAIR_IDS)
    op.execute(PIN_SEARCH_PATH)
    op.execute(GRANTS)


def upgrade_sqlite() -> None:
    op.create_table(
        "new_ordering_secret",
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("id", sa.SmallInteger, nullable=False, server_default="1"),
        sa.PrimaryKeyConstraint("id", name="ordering_secret_pkey"),
        sa.CheckConstraint("id = 1", name=op.f("ordering_secret_one_row_check")),
    )
    move_secret()
    op.execute(NO_REPLACE_ON_SQLITE)
    op.execute(POSITIVE_ID_ON_SQLITE)


def move_secret() -> None:
    op.execute("INSERT INTO new_ordering_secret (secret) SELECT secret FROM ordering_secret")
    op.drop_table("ordering_secret")
    op.rename_table("new_ordering_secret", "ordering_secret")


def downgrade() -> None:
    if on_postgres():
        op.execute("SET LOCAL lock_timeout = '5s'")
        op.execute("DROP FUNCTION outbox_repair_ids")
        op.execute("ALTER TABLE audit_log ENABLE TRIGGER audit_log_append_only")
        op.drop_column("ordering_secret", "id")
    else:
        op.execute("DROP TRIGGER audit_log_positive_id")
        op.execute("DROP TRIGGER audit_log_no_replace")
        op.create_table("new_ordering_secret", sa.Column("secret", sa.LargeBinary, nullable=False))
        move_secret()
    op.drop_table("outbox_targets")
