"""
The audit log is a hash chain, bodies can be closed to one person alone and can expire.

`audit_head` has the number and the hash of the last row of the chain; on Postgres a trigger adds
each row to it. `approvals` has requests to open bodies, and who approved them; on Postgres a
trigger takes both persons from the session. A dead letter whose body has expired keeps its
metadata.
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
# With the rights of the owner, so that no other role can change the head. Rows wait for each other
# at the head before they get an id, so that the order of ids is the order of the chain; an id that
# the counter has not given out, or that is below one of the log, is replaced. It is no trigger of
# sessions that replicate: those copy rows with their hashes. The bytes are those of
# outbox/audit/chain.py.
AUDIT_CHAIN = """
CREATE FUNCTION audit_log_chain() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    counter CONSTANT regclass := pg_get_serial_sequence('audit_log', 'id')::regclass;
    last_id bigint;
    field text;
    content bytea;
BEGIN
    SELECT hash INTO NEW.previous_hash FROM audit_head FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO audit_head (rows, hash) VALUES (0, decode(repeat('00', 32), 'hex'))
            ON CONFLICT DO NOTHING;
        SELECT hash INTO NEW.previous_hash FROM audit_head FOR UPDATE;
    END IF;
    SELECT coalesce(max(id), 0) INTO last_id FROM audit_log;
    IF NEW.id <= last_id OR NEW.id > coalesce(pg_sequence_last_value(counter), 0) THEN
        NEW.id := greatest(nextval(counter), last_id + 1);
    END IF;
    NEW.at := clock_timestamp();
    NEW.role := session_user;
    content := convert_to(E'outbox-audit-1\\n', 'UTF8') || NEW.previous_hash;
    FOREACH field IN ARRAY ARRAY[
        NEW.id::text, to_char(NEW.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),
        replace(NEW.run::text, '-', ''), NEW.role, NEW.actor, NEW.action, NEW.source, NEW.because,
        NEW.selection::text, NEW.messages::text, NEW.details::text
    ] LOOP
        content := content || int4send(octet_length(convert_to(field, 'UTF8')))
            || convert_to(field, 'UTF8');
    END LOOP;
    NEW.hash := sha256(content);
    UPDATE audit_head SET rows = rows + 1, hash = NEW.hash;
    RETURN NEW;
END
$$
"""
AUDIT_CHAIN_TRIGGER = """
CREATE TRIGGER audit_log_chain BEFORE INSERT ON audit_log
FOR EACH ROW EXECUTE FUNCTION audit_log_chain()
"""

# A role that may change the table can neither name another person nor approve its own request.
APPROVALS = """
CREATE FUNCTION approvals_two_persons() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.requested_role := session_user;
        NEW.requested_at := clock_timestamp();
        NEW.approved_by := NULL;
        NEW.approved_role := NULL;
        NEW.approved_at := NULL;
        NEW.used_at := NULL;
        RETURN NEW;
    END IF;
    IF (OLD.id, OLD.action, OLD.source, OLD.selection, OLD.because) IS DISTINCT FROM
            (NEW.id, NEW.action, NEW.source, NEW.selection, NEW.because)
        OR (OLD.requested_by, OLD.requested_role, OLD.requested_at) IS DISTINCT FROM
            (NEW.requested_by, NEW.requested_role, NEW.requested_at)
        OR OLD.used_at IS NOT NULL
    THEN
        RAISE EXCEPTION 'approvals: a request does not change'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF OLD.approved_at IS NULL THEN
        IF session_user = OLD.requested_role OR NEW.used_at IS NOT NULL THEN
            RAISE EXCEPTION 'approvals: another role has to approve first'
                USING ERRCODE = 'insufficient_privilege';
        END IF;
        NEW.approved_role := session_user;
        NEW.approved_at := clock_timestamp();
        RETURN NEW;
    END IF;
    IF session_user <> OLD.requested_role
        OR (OLD.approved_by, OLD.approved_role, OLD.approved_at) IS DISTINCT FROM
            (NEW.approved_by, NEW.approved_role, NEW.approved_at)
    THEN
        RAISE EXCEPTION 'approvals: only the role that has asked uses it'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    NEW.used_at := clock_timestamp();
    RETURN NEW;
END
$$
"""
APPROVALS_TRIGGER = """
CREATE TRIGGER approvals_two_persons BEFORE INSERT OR UPDATE ON approvals
FOR EACH ROW EXECUTE FUNCTION approvals_two_persons()
"""

PIN_SEARCH_PATH = """
DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'outbox_refuse_plaintext', 'audit_log_chain', 'approvals_two_persons'
    ] LOOP
        EXECUTE format(
            'ALTER FUNCTION %I SET search_path = %I, pg_temp', name, current_schema()
        );
    END LOOP;
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
                ('INSERT', 'SELECT, INSERT, UPDATE ON approvals'),
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
    op.add_column("dead_letters", sa.Column("body_expired_at", TIME))
    op.add_column(
        "audit_log", sa.Column("details", JSON, nullable=False, server_default=sa.text("'{}'"))
    )
    op.add_column(
        "audit_log", sa.Column("role", sa.Text, nullable=False, server_default=sa.text("''"))
    )
    op.add_column("audit_log", sa.Column("previous_hash", sa.LargeBinary))
    op.add_column("audit_log", sa.Column("hash", sa.LargeBinary))
    create_audit_head()
    create_approvals()
    if on_postgres():
        for statement in (AUDIT_CHAIN, APPROVALS, PIN_SEARCH_PATH):
            op.execute(statement)
        op.execute(AUDIT_CHAIN_TRIGGER)
        op.execute(APPROVALS_TRIGGER)
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
        op.execute("DROP TRIGGER audit_log_chain ON audit_log")
        op.execute("DROP FUNCTION audit_log_chain")
    op.drop_table("approvals")
    op.drop_table("audit_head")
    if on_postgres():
        op.execute("DROP FUNCTION approvals_two_persons")
    op.drop_column("audit_log", "hash")
    op.drop_column("audit_log", "previous_hash")
    op.drop_column("audit_log", "role")
    op.drop_column("audit_log", "details")
    op.drop_column("dead_letters", "body_expired_at")


def on_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"


def now() -> sa.TextClause:
    if on_postgres():
        return sa.text("clock_timestamp()")
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")
