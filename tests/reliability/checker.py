"""
Checks what must be true of a history, whatever the faults were; pure functions.

    lost        committed, and neither applied, dead-lettered nor waiting
    ghost       applied, dead-lettered or sent, and never committed
    twice       applied more than once by a consumer, other than by a replay
    order       sent first, or applied by an ordered consumer, before an earlier event of its key
    duplicates  more copies on the wire than the faults explain
    reason      dead-lettered for a reason that the run does not allow
    leftover    something is left behind: a transaction, a lock, a connection
    backlog     an event still waits after the drain
    growth      memory or file descriptors keep growing after the warm-up
    leak        health data where none may be
    recovery    no new event was applied in time after the end of a fault
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from tests.reliability.figures import figures, lost, recoveries, twice
from tests.reliability.history import (
    ROLLED_BACK,
    Applied,
    DeadLettered,
    Leaked,
    Leftover,
    Produced,
    Published,
    Record,
    Sampled,
    Waiting,
    of_kind,
)

MANY = 5
"""So many of what was found are named."""

_GROWTH_SAMPLES = 9
_GROWTH_BYTES = 64 * 1024 * 1024
_GROWTH_DESCRIPTORS = 32


@dataclass(frozen=True, slots=True)
class Guarantees:
    """
    What the checker demands of a run beyond the rules that always hold.

    Args:
        consumers: Each of them has to apply every event.
        ordered: Those of them that apply the events of a key in order.
        duplicates: The most copies on the wire beyond one of each event; None without a bound.
        reasons: The reasons for which events may be dead-lettered; none by default.
        drained: Whether no event may wait at the end.
        progress_seconds: The longest from the end of a fault to the first effect of an event that
            was committed after it; None without a bound.

    """

    consumers: frozenset[str]
    ordered: frozenset[str] = frozenset()
    duplicates: int | None = None
    reasons: frozenset[str] = frozenset()
    drained: bool = True
    progress_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule, and the evidence."""

    rule: str
    text: str


def check(history: Sequence[Record], guarantees: Guarantees) -> list[Finding]:
    """All findings in *history*; an empty list if it is correct."""
    return [
        Finding(rule.__name__.lstrip("_"), text)
        for rule in _RULES
        for text in rule(history, guarantees)
    ]


def _lost(history: Sequence[Record], guarantees: Guarantees) -> Iterator[str]:
    for consumer, missing in sorted(lost(history, guarantees.consumers).items()):
        if missing:
            yield f"{consumer}: {_named(missing)}"


def _ghost(history: Sequence[Record], _guarantees: Guarantees) -> Iterator[str]:
    # If a producer recorded an unknown outcome first, its last record counts.
    outcomes = {record.id: record.outcome for record in of_kind(history, Produced)}
    possible = {id_ for id_, outcome in outcomes.items() if outcome != ROLLED_BACK}
    for kind in (Published, Applied, DeadLettered):
        if ghosts := _ids(history, kind) - possible:
            yield f"{kind.__name__.lower()}: {_named(ghosts)}"


def _twice(history: Sequence[Record], _guarantees: Guarantees) -> Iterator[str]:
    for consumer, again in sorted(twice(history).items()):
        yield f"{consumer}: {_named(again)}"


def _order(history: Sequence[Record], guarantees: Guarantees) -> Iterator[str]:
    places = {record.id: (record.key, record.sequence) for record in of_kind(history, Produced)}
    seen = {"on the wire": [record.id for record in of_kind(history, Published)]}
    for consumer in sorted(guarantees.ordered):
        seen[consumer] = [
            record.id for record in of_kind(history, Applied) if record.consumer == consumer
        ]
    for where, ids in seen.items():
        of_key: dict[str, list[int]] = defaultdict(list)
        for id_ in dict.fromkeys(ids):  # copies come later, and harm no order
            key, sequence = places.get(id_, (None, 0))
            if key is not None:
                of_key[key].append(sequence)
        wrong = {key for key, order in of_key.items() if any(a > b for a, b in pairwise(order))}
        if wrong:
            yield f"{where}: the keys {_named(wrong)}"


def _duplicates(history: Sequence[Record], guarantees: Guarantees) -> Iterator[str]:
    found = figures(history).duplicates
    if guarantees.duplicates is not None and found > guarantees.duplicates:
        yield f"{found} on the wire, and no more than {guarantees.duplicates} are explained"


def _reason(history: Sequence[Record], guarantees: Guarantees) -> Iterator[str]:
    reasons = Counter(record.reason for record in of_kind(history, DeadLettered))
    for reason, count in sorted(reasons.items()):
        if reason not in guarantees.reasons:
            yield f"{count} dead-lettered for the reason {reason!r}"


def _backlog(history: Sequence[Record], guarantees: Guarantees) -> Iterator[str]:
    places = Counter(record.where for record in of_kind(history, Waiting))
    if guarantees.drained and places:
        yield ", ".join(f"{count} wait in {where}" for where, count in sorted(places.items()))


def _leftover(history: Sequence[Record], _guarantees: Guarantees) -> Iterator[str]:
    for record in of_kind(history, Leftover):
        yield f"{record.count} {record.kind}"


def _growth(history: Sequence[Record], _guarantees: Guarantees) -> Iterator[str]:
    samples: dict[str, list[Sampled]] = defaultdict(list)
    for record in of_kind(history, Sampled):
        samples[record.process].append(record)
    for process, taken in sorted(samples.items()):
        if len(taken) < _GROWTH_SAMPLES:
            continue
        third = len(taken) // 3
        middle, last = taken[third : 2 * third], taken[-third:]
        memory = _mean(last, "resident_bytes") - _mean(middle, "resident_bytes")
        if memory > _GROWTH_BYTES:
            yield f"{process} has grown by {memory / (1024 * 1024):.0f} MiB"
        files = _mean(last, "descriptors") - _mean(middle, "descriptors")
        if files > _GROWTH_DESCRIPTORS:
            yield f"{process} has {files:.0f} more file descriptors"


def _leak(history: Sequence[Record], _guarantees: Guarantees) -> Iterator[str]:
    for where, count in sorted(
        Counter(record.where for record in of_kind(history, Leaked)).items()
    ):
        yield f"{where}, {count} times"


def _recovery(history: Sequence[Record], guarantees: Guarantees) -> Iterator[str]:
    if guarantees.progress_seconds is None:
        return
    for fault, took in recoveries(history):
        if took is not None and took > guarantees.progress_seconds:
            yield f"after {fault}, the first effect of a new event took {took:.1f} s"


_RULES: tuple[Callable[[Sequence[Record], Guarantees], Iterator[str]], ...] = (
    _lost,
    _ghost,
    _twice,
    _order,
    _duplicates,
    _reason,
    _backlog,
    _leftover,
    _growth,
    _leak,
    _recovery,
)


def _ids(history: Sequence[Record], kind: type[Record]) -> set[str]:
    return {record.id for record in of_kind(history, kind)}


def _mean(samples: Sequence[Sampled], what: str) -> float:
    return fmean(getattr(sample, what) for sample in samples)


def _named(things: set[str]) -> str:
    some = ", ".join(sorted(things)[:MANY])
    return f"{len(things)}: {some}{', …' if len(things) > MANY else ''}"
