"""Rows have bounded sizes and generated ids, and outbox_add refuses what Python refuses."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MAX_ATTEMPTS = 1_000_000
MAX_BODY_BYTES = 1_048_576
MAX_HEADERS_BYTES = 65_536
MAX_TYPE_BYTES = 128
MAX_TEXT_BYTES = 255
KEPT_TEXT_BYTES = 65_536
"""A longer text of a row that is set aside is not kept: commands could not read the others."""

TEXTS = (
    "exchange",
    "routing_key",
    "ordering_key",
    "idempotency_key",
    "correlation_id",
    "content_type",
    "content_encoding",
    "last_error",
)
ON_POSTGRES = {
    "id": "id > 0",
    "attempts": f"attempts BETWEEN 0 AND {MAX_ATTEMPTS}",
    "body": f"octet_length(body) <= {MAX_BODY_BYTES}",
    "headers": f"octet_length(headers::text) <= {MAX_HEADERS_BYTES}",
    "type": f"octet_length(type) <= {MAX_TYPE_BYTES}",
    **{name: f"octet_length({name}) <= {MAX_TEXT_BYTES}" for name in TEXTS},
}
# The size as stored is read first: the text of large headers may be larger than any value may be.
BOUNDED_ON_POSTGRES = " AND ".join(
    f"CASE WHEN pg_column_size(headers) > {MAX_HEADERS_BYTES} THEN false ELSE {check} END"
    if column == "headers"
    else check
    for column, check in ON_POSTGRES.items()
    if column not in {"id", "attempts"}
)

BYTES_ON_SQLITE = "length(CAST({0} AS BLOB))"
ON_SQLITE = {
    "attempts": f"{{0}} BETWEEN 0 AND {MAX_ATTEMPTS}",
    "body": f"length({{0}}) <= {MAX_BODY_BYTES}",
    "headers": f"{BYTES_ON_SQLITE} <= {MAX_HEADERS_BYTES}",
    "type": f"{BYTES_ON_SQLITE} <= {MAX_TYPE_BYTES}",
    **dict.fromkeys(TEXTS, f"{BYTES_ON_SQLITE} <= {MAX_TEXT_BYTES}"),
    # Functions of text end at a NUL, so the earlier checks have not seen what follows it.
    "event_id": f"typeof({{0}}) = 'text' AND {BYTES_ON_SQLITE} = 32",
    "created_at": "instr({0}, char(0)) = 0",
    "occurred_at": "instr({0}, char(0)) = 0",
    "not_before": "instr({0}, char(0)) = 0",
}
ID_STEP_ON_SQLITE = 1_000_000_000_000
"""An id further above the last one would use up the ids: after the largest one SQLite has none."""

COPIED = (
    "type",
    "exchange",
    "routing_key",
    "ordering_key",
    "idempotency_key",
    "correlation_id",
    "priority",
    "content_type",
    "content_encoding",
)

# UUIDv7 as RFC 9562, section 5.7: 48 bits of milliseconds, then version, variant and random bits.
OUTBOX_ADD = r"""
CREATE OR REPLACE FUNCTION outbox_add(
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
    is_upload boolean := outbox_add.type = 'health.data.uploaded';
    encoded bytea := convert_to(outbox_add.payload::text, 'UTF8');
    -- As in Python, empty keys are the defaults.
    routed text := nullif(outbox_add.routing_key, '');
    identity text := coalesce(nullif(outbox_add.idempotency_key, ''), id::text);
    urgency text := outbox_add.priority;
    field text;
    value text;
    header jsonb;
BEGIN
    IF outbox_add.type IS NULL OR length(outbox_add.type) > 128
       OR outbox_add.type !~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$' THEN
        RAISE EXCEPTION 'type: must be words joined by dots, at most 128 characters'
            USING ERRCODE = 'check_violation';
    END IF;
    IF encoded IS NULL OR length(encoded) > 1048576 THEN
        RAISE EXCEPTION 'payload: must be JSON of at most 1048576 bytes'
            USING ERRCODE = 'check_violation';
    END IF;
    IF jsonb_path_exists(
        outbox_add.payload, 'strict $.**{200} ? (@.type() == "array" || @.type() == "object")'
    ) THEN
        RAISE EXCEPTION 'payload: is nested more than 200 levels deep'
            USING ERRCODE = 'check_violation';
    END IF;
    IF jsonb_path_exists(
        outbox_add.payload, '$.** ? (@.type() == "number" && (@ >= 1e4300 || @ <= -1e4300))'
    ) THEN
        RAISE EXCEPTION 'payload: has a number of more than 4300 digits'
            USING ERRCODE = 'check_violation';
    END IF;
    -- Uploads are routed by record type and priority, as HealthDataMessage does it.
    IF is_upload AND jsonb_typeof(outbox_add.payload) <> 'object' THEN
        RAISE EXCEPTION 'payload: must be a JSON object, but is a JSON %',
            jsonb_typeof(outbox_add.payload)
            USING ERRCODE = 'check_violation', HINT = 'The driver may have encoded it twice.';
    END IF;
    IF is_upload AND routed IS NULL AND NOT coalesce(
        jsonb_typeof(outbox_add.payload -> 'record_type') = 'string'
        AND outbox_add.payload ->> 'record_type' ~ '^[A-Za-z][A-Za-z0-9_]*$'
        AND length(outbox_add.payload ->> 'record_type') <= 64, false
    ) THEN
        RAISE EXCEPTION 'payload.record_type: must be one word of letters, digits and underscores'
            USING ERRCODE = 'check_violation',
            HINT = 'The routing key is made from it, unless routing_key is given.';
    END IF;
    IF is_upload AND outbox_add.payload ? 'processing_priority' AND NOT coalesce(
        outbox_add.payload ->> 'processing_priority' IN ('low', 'normal', 'high'), false
    ) THEN
        RAISE EXCEPTION 'payload.processing_priority: must be low, normal or high'
            USING ERRCODE = 'check_violation';
    END IF;
    IF is_upload THEN
        urgency := coalesce(urgency, outbox_add.payload ->> 'processing_priority');
        routed := coalesce(routed, 'health.processing.'
            || lower(outbox_add.payload ->> 'record_type') || '.'
            || coalesce(outbox_add.payload ->> 'processing_priority', 'normal'));
    END IF;
    urgency := coalesce(urgency, 'normal');
    IF urgency NOT IN ('low', 'normal', 'high') THEN
        RAISE EXCEPTION 'priority: must be low, normal or high' USING ERRCODE = 'check_violation';
    END IF;
    IF outbox_add.not_before NOT BETWEEN '1970-01-02 00:00:00+00' AND '9998-12-31 00:00:00+00' THEN
        RAISE EXCEPTION 'not_before: must be after 1970 and before 9999'
            USING ERRCODE = 'check_violation';
    END IF;
    FOR field, value IN VALUES
        ('routing_key', routed),
        ('ordering_key', outbox_add.ordering_key),
        ('idempotency_key', identity),
        ('correlation_id', outbox_add.correlation_id)
    LOOP
        -- The white space of Unicode, whatever the collation of the database.
        IF octet_length(value) NOT BETWEEN 1 AND 255 OR value ~
            '[\u0001-\u0020\u007f\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]'
        THEN
            RAISE EXCEPTION '%: must be 1 to 255 bytes without white space or control characters',
                field USING ERRCODE = 'check_violation';
        END IF;
    END LOOP;
    IF jsonb_typeof(coalesce(outbox_add.headers, '{}')) <> 'object' THEN
        RAISE EXCEPTION 'headers: must be an object' USING ERRCODE = 'check_violation';
    END IF;
    FOR field, header IN SELECT * FROM jsonb_each(coalesce(outbox_add.headers, '{}')) LOOP
        -- Which other names are allowed is a setting of the relay, MQ_ALLOWED_HEADERS.
        IF field ~ '^(x-|amq)' OR field IN ('cc', 'bcc') OR length(field) > 64
           OR field !~ '^[a-z0-9]+(-[a-z0-9]+)*$' THEN
            RAISE EXCEPTION 'headers: a name is reserved or not lower-case words joined by dashes'
                USING ERRCODE = 'check_violation';
        END IF;
        value := header #>> '{}';
        IF jsonb_typeof(header) NOT IN ('string', 'number', 'boolean') THEN
            RAISE EXCEPTION 'headers.%: must be a string, an integer or a boolean', field
                USING ERRCODE = 'check_violation';
        ELSIF jsonb_typeof(header) = 'number' AND (
            CASE WHEN value ~ '^-?[0-9]{1,19}$'
            THEN value::numeric NOT BETWEEN -9223372036854775808 AND 9223372036854775807
            ELSE true END
        ) THEN
            RAISE EXCEPTION 'headers.%: must be an integer of 64 bits', field
                USING ERRCODE = 'check_violation';
        ELSIF jsonb_typeof(header) = 'string' AND (
            octet_length(value) > 1024 OR value ~ '[\u0001-\u001f\u007f]'
        ) THEN
            RAISE EXCEPTION 'headers.%: is longer than 1024 bytes or has control characters', field
                USING ERRCODE = 'check_violation';
        END IF;
    END LOOP;
    INSERT INTO outbox AS o (
        event_id, type, routing_key, ordering_key, idempotency_key, correlation_id, priority,
        headers, body, not_before
    ) VALUES (
        id, outbox_add.type, coalesce(routed, outbox_add.type), outbox_add.ordering_key,
        identity, outbox_add.correlation_id, urgency, coalesce(outbox_add.headers, '{}'), encoded,
        outbox_add.not_before
    );
    IF NOT FOUND THEN
        RAISE EXCEPTION 'outbox: a trigger or a rule of another program has dropped the row'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN id;
END
$$
"""
PIN_SEARCH_PATH = """
DO $do$ BEGIN
    EXECUTE format('ALTER FUNCTION outbox_add SET search_path = %I, pg_temp', current_schema());
END $do$
"""
# One at a time: the rows of a key keep their order.
NEW_IDS = """
DO $do$
DECLARE
    old bigint;
BEGIN
    FOR old IN SELECT id FROM outbox WHERE id <= 0 ORDER BY id LOOP
        UPDATE outbox SET id = DEFAULT WHERE id = old;
    END LOOP;
END $do$
"""


def on_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"


def upgrade() -> None:
    if on_postgres():
        upgrade_postgres()
    else:
        upgrade_sqlite()


def upgrade_postgres() -> None:
    """
    Refuse new rows at once, set old ones aside, and validate without blocking readers or writers.

    A migration that waits for the table lock blocks every later statement, so it waits at most 5
    seconds. It can be run again after a timeout.
    """
    op.execute("SET LOCAL lock_timeout = '5s'")
    changes = ["ALTER COLUMN id SET GENERATED ALWAYS"]
    for column, check in ON_POSTGRES.items():
        changes += [
            f"DROP CONSTRAINT IF EXISTS outbox_{column}_check",
            f"ADD CONSTRAINT outbox_{column}_check CHECK ({check}) NOT VALID",
        ]
    op.execute(f"ALTER TABLE outbox {', '.join(changes)}")
    op.execute(OUTBOX_ADD)
    op.execute(PIN_SEARCH_PATH)
    columns = ", ".join(COPIED)
    kept = ", ".join(
        f"CASE WHEN octet_length({column}) <= {KEPT_TEXT_BYTES} THEN {column} END"
        for column in COPIED
    )
    with op.get_context().autocommit_block():
        op.execute(
            f"UPDATE outbox SET attempts = {MAX_ATTEMPTS} WHERE attempts > {MAX_ATTEMPTS}"
            f" AND ({BOUNDED_ON_POSTGRES}) IS NOT FALSE"
        )
        op.execute(
            f"WITH unbounded AS (DELETE FROM outbox WHERE ({BOUNDED_ON_POSTGRES}) IS FALSE"
            " RETURNING *)"
            " INSERT INTO dead_letters (source, reason, attempts, message_id, headers, body,"
            f" occurred_at, first_at, {columns})"
            " SELECT 'relay', 'malformed', attempts, event_id::text,"
            f" CASE WHEN pg_column_size(headers) <= {MAX_HEADERS_BYTES} THEN headers"
            f" ELSE '{{}}' END, body, occurred_at, created_at, {kept} FROM unbounded"
        )
        op.execute(NEW_IDS)
        for column in ON_POSTGRES:
            op.execute(f"ALTER TABLE outbox VALIDATE CONSTRAINT outbox_{column}_check")


def upgrade_sqlite() -> None:
    """
    Move old rows aside, then add triggers: SQLite cannot add a constraint to a table.
    """
    op.execute(f"UPDATE outbox SET attempts = {MAX_ATTEMPTS} WHERE attempts > {MAX_ATTEMPTS}")
    unreadable = " OR ".join(
        f"NOT ({check.format(column)})" for column, check in ON_SQLITE.items()
    )
    columns = ", ".join(COPIED)
    kept = ", ".join(
        f"CASE WHEN {BYTES_ON_SQLITE.format(column)} <= {KEPT_TEXT_BYTES} THEN {column} END"
        for column in COPIED
    )
    uuid = " || '-' || ".join(
        f"substr(event_id, {first}, {length})"
        for first, length in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    )
    op.execute(
        "INSERT INTO dead_letters (source, reason, attempts, message_id, headers, body,"
        f" occurred_at, first_at, {columns}) SELECT 'relay', 'malformed', attempts, {uuid},"
        f" CASE WHEN {BYTES_ON_SQLITE.format('headers')} <= {KEPT_TEXT_BYTES} THEN headers"
        " ELSE '{}' END, body, substr(occurred_at, 1, 19), substr(created_at, 1, 19),"
        f" {kept} FROM outbox WHERE {unreadable} ORDER BY id"
    )
    op.execute(f"DELETE FROM outbox WHERE {unreadable}")
    op.execute(
        "UPDATE outbox SET id = old.new_id FROM (SELECT id AS old_id, row_number() OVER (ORDER BY"
        " id) + (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox')"
        " AS new_id FROM outbox WHERE id <= 0) AS old WHERE outbox.id = old.old_id"
    )
    for event, when in (("insert", "INSERT"), ("update", f"UPDATE OF {', '.join(ON_SQLITE)}")):
        refusals = "".join(
            f" SELECT RAISE(ABORT, 'outbox_{column}: is too large or cannot be read')"
            f" WHERE NOT ({check.format('NEW.' + column)});"
            for column, check in ON_SQLITE.items()
        )
        op.execute(
            f"CREATE TRIGGER outbox_bounds_{event} BEFORE {when} ON outbox BEGIN{refusals} END"
        )
    # Only afterwards is the id of a row known that was inserted without one.
    below = "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)"
    for event, when in (("insert", "INSERT"), ("update", "UPDATE OF id")):
        op.execute(
            f"CREATE TRIGGER outbox_id_{event} AFTER {when} ON outbox"
            f" WHEN NEW.id <= 0 OR NEW.id > {below} + {ID_STEP_ON_SQLITE}"
            " BEGIN SELECT RAISE(ABORT, 'outbox_id: leave the id out'); END"
        )


def downgrade() -> None:
    """The stricter outbox_add stays: it works with the older tables too."""
    if on_postgres():
        op.execute("SET LOCAL lock_timeout = '5s'")
        changes = [f"DROP CONSTRAINT outbox_{column}_check" for column in ON_POSTGRES]
        changes += [
            "ALTER COLUMN id SET GENERATED BY DEFAULT",
            "ADD CONSTRAINT outbox_attempts_check CHECK (attempts >= 0)",
        ]
        op.execute(f"ALTER TABLE outbox {', '.join(changes)}")
        return
    for name in ("bounds_insert", "bounds_update", "id_insert", "id_update"):
        op.execute(f"DROP TRIGGER outbox_{name}")
