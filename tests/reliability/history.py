"""
The records of a history: what observers outside of the product have seen, in that order.

No record comes from the system under test: producers record their transactions, a proxy records
the messages that passed it, and the outcomes are read from tables and queues at the end.
A history is a file of JSON lines, so that it outlives its writer.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self, TypeAlias

COMMITTED = "committed"
ROLLED_BACK = "rolled_back"
UNKNOWN = "unknown"
"""The connection was lost during COMMIT: both is right, that the event exists and that not."""


@dataclass(frozen=True, slots=True)
class Produced:
    """
    A producer has ended a transaction that holds this event.

    Args:
        key: Its ordering key, if it has one.
        sequence: Its position among the events of the key; producers of a key are serialised.
        outcome: COMMITTED, ROLLED_BACK or UNKNOWN.

    """

    at: float
    id: str
    key: str | None
    sequence: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Published:
    """A relay has sent a message to the broker."""

    at: float
    id: str


@dataclass(frozen=True, slots=True)
class Applied:
    """
    An effect is in the database.

    Args:
        run: The replay that repeated the event on purpose, if one did.

    """

    at: float
    consumer: str
    id: str
    run: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A relay or a consumer has written a message to `dead_letters`."""

    at: float
    source: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message still waits: in the outbox, in a queue, or parked."""

    at: float
    where: str
    id: str


@dataclass(frozen=True, slots=True)
class FaultBegan:
    """A fault begins."""

    at: float
    fault: str


@dataclass(frozen=True, slots=True)
class FaultEnded:
    """A fault has ended: the process runs again, or the connection is open again."""

    at: float
    fault: str


@dataclass(frozen=True, slots=True)
class Drained:
    """No event waits any more."""

    at: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """The memory and the number of file descriptors of a process."""

    at: float
    process: str
    resident_bytes: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something is left that must not exist when the run is idle, such as an open transaction."""

    at: float
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Leaked:
    """Health data was found where none may be; *where* does not quote it."""

    at: float
    where: str


Record: TypeAlias = (
    Produced
    | Published
    | Applied
    | DeadLettered
    | Waiting
    | FaultBegan
    | FaultEnded
    | Drained
    | Sampled
    | Leftover
    | Leaked
)

_KINDS: dict[str, Any] = {
    kind.__name__.lower(): kind
    for kind in (
        Produced,
        Published,
        Applied,
        DeadLettered,
        Waiting,
        FaultBegan,
        FaultEnded,
        Drained,
        Sampled,
        Leftover,
        Leaked,
    )
}


class HistoryWriter:
    """Appends records to a file, each at once; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self._file = self.path.open("a", buffering=1)
        return self

    def __exit__(self, *_failure: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, *records: Record) -> None:
        if self._file is None:
            raise ValueError("the chronicle is closed")
        self._file.writelines(_line(record) for record in records)


def read(path: Path) -> list[Record]:
    """The records of a history file; a truncated last line is left out."""
    with path.open() as lines:
        return list(_parsed(lines))


def of_kind(history: Sequence[Record], *kinds: type[Any]) -> Iterator[Any]:
    """The records of these *kinds*."""
    return (record for record in history if isinstance(record, kinds))


def _line(record: Record) -> str:
    return json.dumps({"what": type(record).__name__.lower(), **asdict(record)}) + "\n"


def _parsed(lines: Iterable[str]) -> Iterator[Record]:
    for line in lines:
        if not line.endswith("\n"):
            return
        fields = json.loads(line)
        yield _KINDS[fields.pop("what")](**fields)
