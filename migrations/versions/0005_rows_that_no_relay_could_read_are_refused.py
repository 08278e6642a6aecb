"""The database refuses times and, on SQLite, counts that a relay could not read."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FIRST, LAST = "1970-01-02 00:00:00+00", "9998-12-31 00:00:00+00"
READABLE = f"created_at BETWEEN '{FIRST}' AND '{LAST}'"
CONSTRAINT = "outbox_created_at_check"

# SQLite cannot add a constraint to an existing table, so triggers refuse such values. Its columns
# accept values of any type, whatever the declared type. `strftime` with '+0 seconds' turns an
# impossible day or hour into another one, which differs from the stored text. The fraction is
# checked separately, because `strftime` would round it up.
SECONDS, FRACTION = "substr({0}, 1, 19)", "substr({0}, 20)"
TIME = (
    "typeof({0}) = 'text' AND {0} GLOB"
    " '[1-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'"
    f" AND strftime('%Y-%m-%d %H:%M:%S', {SECONDS}, '+0 seconds') IS {SECONDS}"
    f" AND ({FRACTION} = '' OR"
    f" {FRACTION} GLOB '.[0-9]*' AND substr({{0}}, 21) NOT GLOB '*[^0-9]*')"
)
NOW_ON_SQLITE = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
READABLE_ON_SQLITE = {
    "created_at": TIME,
    "occurred_at": TIME,
    "not_before": f"{{0}} IS NULL OR {TIME}",
    "attempts": "typeof({0}) = 'integer'",
}
INSTEAD_ON_SQLITE = {
    "created_at": NOW_ON_SQLITE,
    "occurred_at": NOW_ON_SQLITE,
    "not_before": "NULL",
    "attempts": "0",
}
REFUSAL = """
CREATE TRIGGER outbox_{column}_{event} BEFORE {when} ON outbox
WHEN NOT ({readable})
BEGIN SELECT RAISE(ABORT, 'outbox_{column}: cannot be read'); END
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
    Refuse new rows at once, and validate the old ones without blocking readers or writers.

    A migration that waits for the table lock blocks every later statement, so it waits at most 5
    seconds. It can be run again after a timeout.
    """
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(f"ALTER TABLE outbox DROP CONSTRAINT IF EXISTS {CONSTRAINT}")
    op.execute(f"ALTER TABLE outbox ADD CONSTRAINT {CONSTRAINT} CHECK ({READABLE}) NOT VALID")
    with op.get_context().autocommit_block():
        # Rows that stopped every relay: they are published as if they were inserted now.
        op.execute(f"UPDATE outbox SET created_at = clock_timestamp() WHERE NOT ({READABLE})")
        op.execute(f"ALTER TABLE outbox VALIDATE CONSTRAINT {CONSTRAINT}")


def upgrade_sqlite() -> None:
    for column, readable in READABLE_ON_SQLITE.items():
        unreadable = f"NOT ({readable.format(column)})"
        op.execute(f"UPDATE outbox SET {column} = {INSTEAD_ON_SQLITE[column]} WHERE {unreadable}")
        of_new = readable.format(f"NEW.{column}")
        for event, when in (("insert", "INSERT"), ("update", f"UPDATE OF {column}")):
            op.execute(REFUSAL.format(column=column, event=event, when=when, readable=of_new))


def downgrade() -> None:
    if on_postgres():
        op.drop_constraint(op.f(CONSTRAINT), "outbox", type_="check")
        return
    for column in READABLE_ON_SQLITE:
        for event in ("insert", "update"):
            op.execute(f"DROP TRIGGER outbox_{column}_{event}")
