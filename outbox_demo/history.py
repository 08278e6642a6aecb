"""
The producer's own record of committed and rolled back events, kept outside the database.

The producer writes each line after the transaction has ended.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from uuid import UUID

FILE_NAME = "history.jsonl"


@dataclass(frozen=True, slots=True)
class History:
    """Event ids by the outcome of their transaction."""

    committed: set[UUID] = field(default_factory=set)
    rolled_back: set[UUID] = field(default_factory=set)


def record(file: IO[str], *, outcome: str, ids: Iterable[UUID]) -> None:
    """Add a line to *file*: the *outcome*, committed or rolled_back, of the events *ids*."""
    file.write(json.dumps({outcome: [str(each) for each in ids]}) + "\n")
    file.flush()


def read(path: Path) -> History:
    """The history in the file at *path*; empty if the file does not exist."""
    history = History()
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                history.committed.update(map(UUID, entry.get("committed", ())))
                history.rolled_back.update(map(UUID, entry.get("rolled_back", ())))
    return history
