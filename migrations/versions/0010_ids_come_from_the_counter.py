"""
On Postgres a role with INSERT alone cannot insert ids ahead of the counter.

Such a row holds every relay back, as rows do that were copied without their sequence, and a row
with the largest id leaves no ids for new rows. COPY and OVERRIDING SYSTEM VALUE name ids even
where they are GENERATED ALWAYS. Owners of the table restore rows, so they may name any id.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# With the rights of the owner, because producers have none on the sequence. The counter is read
# after the rows were inserted, so no id that came from it is above it.
REFUSE_IDS = """
CREATE FUNCTION outbox_refuse_ids() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    counter regclass := pg_get_serial_sequence('outbox', 'id')::regclass;
BEGIN
    IF counter IS NOT NULL AND EXISTS (
        SELECT FROM inserted WHERE id > coalesce(pg_sequence_last_value(counter), 0)
    ) THEN
        RAISE EXCEPTION 'outbox_id: leave the id out' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END
$$
"""
TRIGGER = """
CREATE TRIGGER outbox_refuse_ids AFTER INSERT ON outbox
REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
WHEN (NOT has_table_privilege('outbox'::regclass, 'TRUNCATE'))
EXECUTE FUNCTION outbox_refuse_ids()
"""

# An id further above the counter is no copied one: behind it the ids would soon be used up.
REPAIR_IDS = """
CREATE OR REPLACE FUNCTION outbox_repair_ids() RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
    name text;
    inserted_at text;
    counter bigint;
    highest bigint;
    farthest CONSTANT bigint := 1000000000000;
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
        EXECUTE format(
            'SELECT last_value - (NOT is_called)::integer FROM %s',
            pg_get_serial_sequence(name, 'id')::regclass
        ) INTO counter;
        EXECUTE format('SELECT max(id) FROM %I WHERE id - $1 <= $2', name)
            INTO highest USING counter, farthest;
        IF highest > counter THEN
            PERFORM setval(pg_get_serial_sequence(name, 'id'), highest);
        END IF;
        FOR row_id IN EXECUTE format(
            'SELECT id FROM %1$I WHERE id <= $1'
            ' AND %2$I > (SELECT %2$I FROM %1$I WHERE id = $2) ORDER BY %2$I, id',
            name, coalesce(inserted_at, 'id')
        ) USING counter, CASE WHEN highest > counter THEN highest END
        LOOP
            EXECUTE format('UPDATE %I SET id = DEFAULT WHERE id = $1', name) USING row_id;
            moved := moved + 1;
        END LOOP;
        -- Rows of the audit log never change.
        CONTINUE WHEN name = 'audit_log';
        FOR row_id IN EXECUTE format('SELECT id FROM %I WHERE id - $1 > $2 ORDER BY id', name)
            USING counter, farthest
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
        'ALTER FUNCTION outbox_refuse_ids SET search_path = %1$I, pg_temp', current_schema()
    );
    EXECUTE format(
        'ALTER FUNCTION outbox_repair_ids SET search_path = %1$I, pg_temp', current_schema()
    );
END $do$
"""


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    op.execute("SET LOCAL lock_timeout = '5s'")
    for statement in (REFUSE_IDS, REPAIR_IDS, PIN_SEARCH_PATH, TRIGGER):
        op.execute(statement)


def downgrade() -> None:
    """The other outbox_repair_ids stays: it works with the older tables too."""
    if op.get_context().dialect.name != "postgresql":
        return
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TRIGGER outbox_refuse_ids ON outbox")
    op.execute("DROP FUNCTION outbox_refuse_ids")
