"""
The producer's own record of what it committed and what it rolled back, kept outside the database.

Each line is written after the transaction that it tells of has ended.
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
    """Ids of events by what became of their transaction."""

    committed: set[UUID] = field(default_factory=set)
    rolled_back: set[UUID] = field(default_factory=set)


def note(file: IO[str], *, outcome: str, ids: Iterable[UUID]) -> None:
    """Add to *file* that a transaction with the events *ids* was committed or rolled_back."""
    file.write(json.dumps({outcome: [str(each) for each in ids]}) + "\n")
    file.flush()


def read(path: Path) -> History:
    """What the file at *path* tells; nothing if it was never begun."""
    history = History()
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                history.committed.update(map(UUID, entry.get("committed", ())))
                history.rolled_back.update(map(UUID, entry.get("rolled_back", ())))
    return history
