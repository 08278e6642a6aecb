"""The database refuses a time of insertion, and on SQLite a count, that no relay could read."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FIRST, LAST = "1970-01-02 00:00:00+00", "9998-12-31 00:00:00+00"
READABLE = f"created_at BETWEEN '{FIRST}' AND '{LAST}'"

# SQLite adds no constraint to a table that is there. A type that another program may write
# differs from what was declared: its columns take any.
READABLE_ON_SQLITE = {
    "created_at": (
        "typeof(NEW.created_at) = 'text' AND NEW.created_at GLOB"
        " '[1-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:*'"
    ),
    "attempts": "typeof(NEW.attempts) = 'integer'",
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
        # Rows that kept every relay from working: they are published, as if inserted just now.
        op.execute(f"UPDATE outbox SET created_at = clock_timestamp() WHERE NOT {READABLE}")
        op.create_check_constraint("created_at", "outbox", READABLE)
        return
    now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    unreadable = READABLE_ON_SQLITE["created_at"].replace("NEW.", "")
    op.execute(f"UPDATE outbox SET created_at = {now} WHERE NOT ({unreadable})")
    op.execute("UPDATE outbox SET attempts = 0 WHERE typeof(attempts) <> 'integer'")
    for column, readable in READABLE_ON_SQLITE.items():
        for event, when in (("insert", "INSERT"), ("update", f"UPDATE OF {column}")):
            op.execute(REFUSAL.format(column=column, event=event, when=when, readable=readable))


def downgrade() -> None:
    if on_postgres():
        op.drop_constraint(op.f("outbox_created_at_check"), "outbox", type_="check")
        return
    for column in READABLE_ON_SQLITE:
        for event in ("insert", "update"):
            op.execute(f"DROP TRIGGER outbox_{column}_{event}")
