"""The three tables, and on Postgres the function outbox_add."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)

# In a queue table a vacuum pays for every thousand dead rows, at any table size, and must not be
# throttled: a claim scans every dead index entry.
VACUUM = """
ALTER TABLE {table} SET (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
)
"""

# UUIDv7 as RFC 9562, section 5.7: 48 bits of milliseconds, then version, variant and random bits.
OUTBOX_ADD = """
CREATE FUNCTION outbox_add(
    type text,
    payload jsonb,
    routing_key text DEFAULT NULL,
    ordering_key text DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    correlation_id text DEFAULT NULL,
    priority text DEFAULT NULL,
    headers jsonb DEFAULT '{}',
    not_before timestamptz DEFAULT NULL,
    event_id uuid DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    id uuid := coalesce(outbox_add.event_id, encode(set_byte(overlay(
        uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
        FROM 1 FOR 6
    ), 6, (get_byte(uuid_send(gen_random_uuid()), 6) & 15) | 112), 'hex')::uuid);
    encoded bytea := convert_to(outbox_add.payload::text, 'UTF8');
    -- Uploads are routed by record type and priority, as HealthDataMessage does it.
    derived text := CASE WHEN outbox_add.type = 'health.data.uploaded' THEN
        'health.processing.' || lower(outbox_add.payload ->> 'record_type')
        || '.' || coalesce(outbox_add.payload ->> 'processing_priority', 'normal')
    END;
    urgency text := coalesce(
        outbox_add.priority,
        CASE WHEN outbox_add.type = 'health.data.uploaded'
            THEN outbox_add.payload ->> 'processing_priority' END,
        'normal'
    );
    field text;
    value text;
BEGIN
    IF outbox_add.type IS NULL OR length(outbox_add.type) > 128
       OR outbox_add.type !~ '^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$' THEN
        RAISE EXCEPTION 'type: must be words joined by dots, at most 128 characters'
            USING ERRCODE = 'check_violation';
    END IF;
    IF encoded IS NULL OR length(encoded) > 1048576 THEN
        RAISE EXCEPTION 'payload: must be JSON of at most 1048576 bytes'
            USING ERRCODE = 'check_violation';
    END IF;
    IF urgency NOT IN ('low', 'normal', 'high') THEN
        RAISE EXCEPTION 'priority: must be low, normal or high' USING ERRCODE = 'check_violation';
    END IF;
    IF jsonb_typeof(coalesce(outbox_add.headers, '{}')) <> 'object' THEN
        RAISE EXCEPTION 'headers: must be an object' USING ERRCODE = 'check_violation';
    END IF;
    IF outbox_add.not_before NOT BETWEEN '1970-01-02 00:00:00+00' AND '9998-12-31 00:00:00+00' THEN
        RAISE EXCEPTION 'not_before: must be after 1970 and before 9999'
            USING ERRCODE = 'check_violation';
    END IF;
    FOR field, value IN VALUES
        ('routing_key', coalesce(outbox_add.routing_key, derived)),
        ('ordering_key', outbox_add.ordering_key),
        ('idempotency_key', outbox_add.idempotency_key),
        ('correlation_id', outbox_add.correlation_id)
    LOOP
        IF octet_length(value) NOT BETWEEN 1 AND 255 OR value ~ '[[:space:][:cntrl:]]' THEN
            RAISE EXCEPTION '%: must be 1 to 255 bytes without white space', field
                USING ERRCODE = 'check_violation';
        END IF;
    END LOOP;
    INSERT INTO outbox AS o (
        event_id, type, routing_key, ordering_key, idempotency_key, correlation_id, priority,
        headers, body, not_before
    ) VALUES (
        id, outbox_add.type,
        coalesce(outbox_add.routing_key, derived, outbox_add.type),
        outbox_add.ordering_key, coalesce(outbox_add.idempotency_key, id::text),
        outbox_add.correlation_id, urgency, coalesce(outbox_add.headers, '{}'), encoded,
        outbox_add.not_before
    );
    RETURN id;
END
$$
"""


# With any search_path of the caller, and even beside a temporary table of the same name, the
# function writes to the table of the same migration.
PIN_SEARCH_PATH = """
DO $do$ BEGIN
    EXECUTE format('ALTER FUNCTION outbox_add SET search_path = %I, pg_temp', current_schema());
END $do$
"""


def now() -> sa.TextClause:
    if op.get_context().dialect.name == "sqlite":
        return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")
    return sa.text("clock_timestamp()")


def readable() -> list[sa.CheckConstraint]:
    """Constraints for values that the relay can read; a driver fails on any other value."""
    if op.get_context().dialect.name == "sqlite":
        time = "{0} GLOB '[1-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:*'"
        others = [
            sa.CheckConstraint("json_valid(headers)", name="headers"),
            sa.CheckConstraint(
                "length(event_id) = 32 AND event_id NOT GLOB '*[^0-9a-f]*'", name="event_id"
            ),
            sa.CheckConstraint("typeof(body) = 'blob'", name="body"),
        ]
    else:
        time = "{0} BETWEEN '1970-01-02 00:00:00+00' AND '9998-12-31 00:00:00+00'"
        others = []
    return others + [
        sa.CheckConstraint(time.format(column), name=column)
        for column in ("occurred_at", "not_before")
    ]


def partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(
        name, table, columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where)
    )


def upgrade() -> None:
    create_outbox()
    create_dead_letters()
    create_processed_messages()
    if op.get_context().dialect.name == "postgresql":
        op.execute(VACUUM.format(table="outbox"))
        op.execute(OUTBOX_ADD)
        op.execute(PIN_SEARCH_PATH)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION outbox_add")
    op.drop_table("processed_messages")
    op.drop_table("dead_letters")
    op.drop_table("outbox")


def create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", IDENTITY, sa.Identity(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("exchange", sa.Text),
        sa.Column("routing_key", sa.Text, nullable=False),
        sa.Column("ordering_key", sa.Text),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.Text),
        sa.Column("priority", sa.Text, nullable=False, server_default="normal"),
        sa.Column("headers", JSON, nullable=False, server_default="{}"),
        sa.Column("content_type", sa.Text, nullable=False, server_default="application/json"),
        sa.Column("content_encoding", sa.Text),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("occurred_at", TIME, nullable=False, server_default=now()),
        sa.Column("created_at", TIME, nullable=False, server_default=now()),
        sa.Column("not_before", TIME),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("id", name="outbox_pkey"),
        sa.UniqueConstraint("event_id", name="outbox_event_id_key"),
        sa.CheckConstraint("priority IN ('low', 'normal', 'high')", name="priority"),
        sa.CheckConstraint("attempts >= 0", name="attempts"),
        *readable(),
        sqlite_autoincrement=True,
    )
    partial("outbox_ready", "outbox", ["id"], "not_before IS NULL AND ordering_key IS NULL")
    partial(
        "outbox_ready_keyed", "outbox", ["id"], "not_before IS NULL AND ordering_key IS NOT NULL"
    )
    partial("outbox_ordering_key", "outbox", ["ordering_key", "id"], "ordering_key IS NOT NULL")
    partial("outbox_due", "outbox", ["not_before"], "not_before IS NOT NULL")


def create_dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", IDENTITY, sa.Identity(), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("queue", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("message_id", sa.Text),
        sa.Column("type", sa.Text),
        sa.Column("exchange", sa.Text),
        sa.Column("routing_key", sa.Text),
        sa.Column("ordering_key", sa.Text),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("correlation_id", sa.Text),
        sa.Column("priority", sa.Text),
        sa.Column("headers", JSON, nullable=False, server_default="{}"),
        sa.Column("content_type", sa.Text),
        sa.Column("content_encoding", sa.Text),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("occurred_at", TIME),
        sa.Column("first_at", TIME, nullable=False, server_default=now()),
        sa.Column("last_at", TIME, nullable=False, server_default=now()),
        sa.PrimaryKeyConstraint("id", name="dead_letters_pkey"),
        sqlite_autoincrement=True,
    )
    op.create_index("dead_letters_source", "dead_letters", ["source", "reason", "last_at"])


def create_processed_messages() -> None:
    op.create_table(
        "processed_messages",
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("correlation_id", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
        sa.Column("lease_until", TIME),
        sa.Column("owner", sa.Uuid()),
        sa.Column("processing_duration_seconds", sa.Double),
        sa.Column("processed_at", TIME, nullable=False, server_default=now()),
        sa.PrimaryKeyConstraint("consumer", "idempotency_key", name="processed_messages_pkey"),
        sa.CheckConstraint("status IN ('completed', 'processing', 'failed')", name="status"),
    )
    op.create_index("processed_messages_processed_at", "processed_messages", ["processed_at"])
