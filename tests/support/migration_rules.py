"""
The rules for migrations after the first release, as far as a program can check them.

They let programs of the version before work on the tables, and never let a migration that waits
for a lock stop them; CONTRIBUTING.md has all rules.
"""

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from tests.support.processes import REPOSITORY

FIRST_RELEASE = "0011"
_URL = "postgresql://localhost/none"
_BODY = re.compile(r"(\$\w*\$).*?\1", re.DOTALL)
_LITERAL = re.compile(r"'(?:[^']|'')*'")
_COMMENT = re.compile(r"--.*")
_LOCK_TIMEOUT = "SET LOCAL lock_timeout"
_OLDEST = re.compile(r"UPDATE outbox_compatibility SET oldest_revision\s*=\s*'(\d{4})'")
_CONTRACTIONS = {
    re.compile(pattern, re.IGNORECASE | re.DOTALL): meaning
    for pattern, meaning in {
        r"\bDROP\b": "drops something",
        r"\bRENAME\b": "renames something",
        r"\bREVOKE\b": "revokes a right",
        r"\bALTER COLUMN\b": "changes a column",
        r"\bADD CONSTRAINT\b": "adds a constraint to a table",
        r"\bCREATE UNIQUE INDEX\b": "adds a unique index",
        r"\bADD COLUMN\b(?!.*\bDEFAULT\b).*\bNOT NULL\b": "adds a column that needs a value",
    }.items()
}


def released_revisions() -> list[str]:
    """All revisions from the first release on, in their order."""
    scripts = ScriptDirectory(str(REPOSITORY / "migrations"))
    return sorted(
        each.revision for each in scripts.walk_revisions() if _is_released(each.revision)
    )


def statements(revision: str, *, down: bool = False) -> str:
    """The SQL of the migration to *revision* on Postgres, or of the one back."""
    before = f"{int(revision) - 1:04}"
    printed = io.StringIO()
    config = Config(str(REPOSITORY / "alembic.ini"), output_buffer=printed)
    config.attributes["database_url"] = _URL
    with redirect_stdout(printed):
        if down:
            command.downgrade(config, f"{revision}:{before}", sql=True)
        else:
            command.upgrade(config, f"{before}:{revision}", sql=True)
    return printed.getvalue()


def unbounded_locks(sql: str) -> list[str]:
    """The transactions of *sql* that may wait for a lock without a bound."""
    parts = [part.strip() for part in re.split(r"\b(?:BEGIN|COMMIT);", _outside_literals(sql))]
    return [
        part
        for part in parts
        if re.search(r"\b(ALTER|DROP|CREATE INDEX|LOCK)\b", part)
        and _LOCK_TIMEOUT not in part.partition("ALTER")[0].partition("DROP")[0]
    ]


def contractions(revision: str, sql: str) -> list[str]:
    """
    Why programs of the version before could not work on the tables that *sql* has changed.

    None if *sql* moves `oldest_revision`, so that they are refused; it has to be a released
    revision, and at most *revision*.
    """
    moved = _OLDEST.findall(sql)
    wrong = [to for to in moved if not (_is_released(to) and to <= revision)]
    if moved:
        return [f"moves oldest_revision to {to}" for to in wrong]
    return list(_found(_outside_literals(sql)))


def _found(sql: str) -> Iterator[str]:
    for statement in sql.split(";"):
        for pattern, meaning in _CONTRACTIONS.items():
            if pattern.search(statement):
                yield f"{meaning}: {' '.join(statement.split())}"


def _outside_literals(sql: str) -> str:
    return _LITERAL.sub("''", _COMMENT.sub("", _BODY.sub("$$", sql)))


def _is_released(revision: str) -> bool:
    return revision >= FIRST_RELEASE
