"""
Counts and durations of a history, without a verdict; pure functions.

The time of a recovery is the one that a user waits: from the end of a fault to the first effect of
an event that was committed after it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.reliability.history import (
    COMMITTED,
    UNKNOWN,
    Applied,
    DeadLettered,
    Drained,
    FaultBegan,
    FaultEnded,
    Produced,
    Published,
    Record,
    Waiting,
    of_kind,
)


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What a history amounts to.

    Args:
        events: Committed.
        unknown: Whose producer does not know whether they were committed.
        applied: Effects, by all consumers.
        sent: Messages on the wire, copies included.
        duplicates: Messages on the wire beyond one of each event.
        faults: How often each kind of fault has struck.
        recoveries: Seconds from the end of each fault to the first effect of an event that was
            committed after it, ascending.
        longest_pause: The most seconds between two effects; None of less than two.
        drained_after: Seconds from the end of the last fault until nothing waited; None if
            something did.

    """

    events: int
    unknown: int
    applied: int
    given_up: int
    waiting: int
    sent: int
    duplicates: int
    faults: dict[str, int]
    recoveries: list[float]
    longest_pause: float | None
    drained_after: float | None


def figures(history: Sequence[Record]) -> Figures:
    """The counts and durations of *history*."""
    outcomes = Counter(record.outcome for record in of_kind(history, Produced))
    sent = [record.id for record in of_kind(history, Published)]
    return Figures(
        events=outcomes[COMMITTED],
        unknown=outcomes[UNKNOWN],
        applied=_count(history, Applied),
        given_up=_count(history, DeadLettered),
        waiting=_count(history, Waiting),
        sent=len(sent),
        duplicates=len(sent) - len(set(sent)),
        faults=dict(Counter(record.fault for record in of_kind(history, FaultBegan))),
        recoveries=sorted(took for _, took in recoveries(history) if took is not None),
        longest_pause=_longest_pause(history),
        drained_after=_drained_after(history),
    )


def lost(history: Sequence[Record], consumers: Iterable[str]) -> dict[str, set[str]]:
    """By consumer, the committed events that are neither applied, dead-lettered nor waiting."""
    committed = {record.id for record in of_kind(history, Produced) if record.outcome == COMMITTED}
    found: dict[str, set[str]] = defaultdict(set)
    for record in of_kind(history, Applied):
        found[record.consumer].add(record.id)
    for record in of_kind(history, DeadLettered):
        found[record.source].add(record.id)
    for record in of_kind(history, Waiting):
        found[record.where].add(record.id)
    everywhere = found["outbox"] | found["relay"]
    return {name: committed - everywhere - found[name] for name in consumers}


def twice(history: Sequence[Record]) -> dict[str, set[str]]:
    """By consumer, the events applied more than once, other than by a replay."""
    effects = Counter(
        (record.consumer, record.id, record.run) for record in of_kind(history, Applied)
    )
    again: dict[str, set[str]] = defaultdict(set)
    for (consumer, id_, _), count in effects.items():
        if count > 1:
            again[consumer].add(id_)
    return again


def recoveries(history: Sequence[Record]) -> Iterator[tuple[str, float | None]]:
    """
    Each fault that has ended, and the seconds until an event committed after it had an effect.

    None if another fault began before that, or no event was committed after it. Effects of older
    events do not count: they show only that the backlog moves, not that its end is reached.
    """
    events = sorted(
        of_kind(history, FaultBegan, FaultEnded, Applied, Drained), key=lambda each: each.at
    )
    committed = {record.id: record.at for record in of_kind(history, Produced)}
    open_: FaultEnded | None = None
    for event in events:
        if open_ is not None:
            if isinstance(event, Applied) and committed.get(event.id, 0) <= open_.at:
                continue
            progressed = isinstance(event, Applied)
            yield open_.fault, event.at - open_.at if progressed else None
        open_ = event if isinstance(event, FaultEnded) else None


def _longest_pause(history: Sequence[Record]) -> float | None:
    times = sorted(record.at for record in of_kind(history, Applied))
    return max((later - earlier for earlier, later in pairwise(times)), default=None)


def _drained_after(history: Sequence[Record]) -> float | None:
    healed: list[float] = [record.at for record in of_kind(history, FaultEnded)]
    drained: list[float] = [record.at for record in of_kind(history, Drained)]
    if not healed or not drained or any(of_kind(history, Waiting)):
        return None
    return max(drained[-1] - max(healed), 0.0)


def _count(history: Sequence[Record], kind: type[Record]) -> int:
    return sum(1 for _ in of_kind(history, kind))
