"""
outbox_add takes the exchange of an event.

A function with a further parameter is another function, and with both of them a call would be
ambiguous. So one transaction replaces it: calls with the former parameters, by position or by
name, go on working, and its owner and the rights on it stay.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

CHECK = """\
    -- An empty name is the default exchange, whose routing keys are names of queues.
    IF outbox_add.exchange !~ '^[A-Za-z0-9_.:-]{0,200}$' THEN
        RAISE EXCEPTION 'exchange: must be 1 to 200 letters, digits and _.:-, or empty'
            USING ERRCODE = 'check_violation';
    END IF;
"""
# UUIDv7 as RFC 9562, section 5.7: 48 bits of milliseconds, then version, variant and random bits.
OUTBOX_ADD = r"""
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
    event_id uuid DEFAULT NULL,
    exchange text DEFAULT NULL
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
{check}    IF jsonb_typeof(coalesce(outbox_add.headers, '{}')) <> 'object' THEN
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
        headers, body, not_before, exchange
    ) VALUES (
        id, outbox_add.type, coalesce(routed, outbox_add.type), outbox_add.ordering_key,
        identity, outbox_add.correlation_id, urgency, coalesce(outbox_add.headers, '{}'), encoded,
        outbox_add.not_before, outbox_add.exchange
    );
    IF NOT FOUND THEN
        RAISE EXCEPTION 'outbox: a trigger or a rule of another program has dropped the row'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN id;
END
$$
""".replace("{check}", CHECK)
FORMER = (
    OUTBOX_ADD.replace(",\n    exchange text DEFAULT NULL\n", "\n")
    .replace(CHECK, "")
    .replace("not_before, exchange\n    ) VALUES", "not_before\n    ) VALUES")
    .replace("outbox_add.not_before, outbox_add.exchange", "outbox_add.not_before")
)
REPLACE = """
DO $do$
DECLARE
    former regprocedure := (SELECT oid FROM pg_proc WHERE oid = 'outbox_add'::regproc);
    owner regrole;
    rights aclitem[];
    grantee oid;
BEGIN
    SELECT proowner, proacl INTO owner, rights FROM pg_proc WHERE oid = former;
    EXECUTE format('DROP FUNCTION %s', former);
    EXECUTE $function${definition}$function$;
    EXECUTE format('ALTER FUNCTION outbox_add SET search_path = %I, pg_temp', current_schema());
    IF rights IS NOT NULL THEN
        REVOKE ALL ON FUNCTION outbox_add FROM PUBLIC;
        FOR grantee IN
            SELECT each.grantee FROM aclexplode(rights) AS each
            WHERE each.grantee <> owner AND each.privilege_type = 'EXECUTE'
        LOOP
            EXECUTE format(
                'GRANT EXECUTE ON FUNCTION outbox_add TO %s',
                CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
            );
        END LOOP;
    END IF;
    IF owner <> current_user::regrole THEN
        EXECUTE format('ALTER FUNCTION outbox_add OWNER TO %s', owner);
    END IF;
END $do$
"""


def upgrade() -> None:
    replace_by(OUTBOX_ADD)


def downgrade() -> None:
    replace_by(FORMER)


def replace_by(definition: str) -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(REPLACE.replace("{definition}", definition))
