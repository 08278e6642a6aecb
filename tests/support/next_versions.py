"""
Later versions of the product, made of this one: what a rolling upgrade will meet.

The first has a migration that only adds, and a newer wire format, which it reads beside the older
one. The second has a migration that removes something, so that programs of this version may no
longer work on the tables.
"""

import shutil
from pathlib import Path

from outbox.database import migrate
from tests.support.processes import REPOSITORY

HEAD = migrate.head()
ADDED, CONTRACTED = (f"{int(HEAD) + step:04}" for step in (1, 2))
PARTS = ("outbox", "relay", "consumer", "outbox_relay", "migrations")
HEADERS = "outbox/wire/headers.py"

MIGRATION = '''"""A migration of the tests."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    {upgrade}


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    {downgrade}
'''
WITH_TABLES = ("outbox", "dead_letters", "processed_messages", "parked_messages")
ADD = [
    *(f'op.add_column("{table}", sa.Column("added", sa.Text))' for table in WITH_TABLES),
    'op.create_table("outbox_added", sa.Column("id", sa.BigInteger, primary_key=True))',
]
REMOVE = [
    'op.drop_table("outbox_added")',
    *(f'op.drop_column("{table}", "added")' for table in WITH_TABLES),
]
MOVE = "op.execute(\"UPDATE outbox_compatibility SET oldest_revision = '{}'\")"


def with_additions(directory: Path) -> Path:
    """Return the folder of a version with newer tables and wire format, made in *directory*."""
    made = directory / "with_additions"
    for part in PARTS:
        shutil.copytree(REPOSITORY / part, made / part)  # times of files too, so no compilation
    shutil.copy(REPOSITORY / "alembic.ini", made)
    _add(made, ADDED, HEAD, ADD, REMOVE)
    _replace(
        made / HEADERS,
        ("VERSION = 1\n", "VERSION = 2\n"),
        ("version == VERSION", "version in (1, VERSION)"),
    )
    return made


def with_contraction(directory: Path) -> Path:
    """Return the folder of the version after that of `with_additions`, made in *directory*."""
    made = directory / "with_contraction"
    shutil.copytree(with_additions(directory / "before"), made)
    _add(made, CONTRACTED, ADDED, [MOVE.format(ADDED)], [MOVE.format(HEAD)])
    return made


def _add(made: Path, revision: str, before: str, up: list[str], down: list[str]) -> None:
    text = MIGRATION.format(
        revision=revision, before=before, upgrade="\n    ".join(up), downgrade="\n    ".join(down)
    )
    (made / "migrations" / "versions" / f"{revision}_of_tests.py").write_text(text)


def _replace(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text()
    for old, new in changes:
        assert old in text, f"{file.name} has no {old!r}"
        text = text.replace(old, new)
    file.write_text(text)
