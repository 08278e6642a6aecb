"""
What witnesses outside of the product have seen, in the order in which they saw it.

Nothing here comes from the system that is tested: producers write down what they did, a proxy
what passed through it, and what is left is read from tables and queues at the end.
A history is a file of JSON lines, so that it outlives whoever writes it.
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
    A producer has ended a transaction with an event in it.

    Args:
        key: Its ordering key, if it has one.
        sequence: Its place among the events of the key; producers of a key are serialised.
        outcome: COMMITTED, ROLLED_BACK or UNKNOWN.

    """

    at: float
    id: str
    key: str | None
    sequence: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Published:
    """A message was sent towards the broker by a relay."""

    at: float
    id: str


@dataclass(frozen=True, slots=True)
class Applied:
    """
    An effect is in the database.

    Args:
        run: The replay that repeated it on purpose, if one did.

    """

    at: float
    consumer: str
    id: str
    run: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A message is in `dead_letters`, put there by a relay or a consumer."""

    at: float
    source: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message is still on its way: in the outbox, in a queue, or parked."""

    at: float
    place: str
    id: str


@dataclass(frozen=True, slots=True)
class FaultBegan:
    """A fault begins, or happens at once."""

    at: float
    fault: str


@dataclass(frozen=True, slots=True)
class FaultEnded:
    """What a fault did is over: the process is started again, the way is open."""

    at: float
    fault: str


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing waits any more."""

    at: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """How much memory and how many file descriptors a process has."""

    at: float
    process: str
    resident_bytes: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something is left when everything should be still: an open transaction, a connection."""

    at: float
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Leaked:
    """Planted health data was found where none may be; *where* does not quote it."""

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
    """Appends records to a file, each of them at once; to be used in `with`."""

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
    """The records of a chronicle; a last line that was cut short is left out."""
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
