"""
Work queues with their retry and dead queues, found by their names: pure.

    <queue>                  the work queue of a consumer
    <queue>.retry.<delay>    messages that failed and wait for their next attempt
    <queue>.dead             what the broker dead-letters, until the consumer stores it

The names are those of `consumer.queues`, which the relay does not import. A queue that a running
consumer does not use any more is *former*: its delay was configured once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from outbox.transports.broker_figures import QueueFigures

_RETRY = ".retry."
_DEAD = ".dead"
USUAL_DELAYS = ("30s", "300s", "900s")
"""The retry queues of the default of MQ_RETRY_DELAYS."""


class QueueKind(StrEnum):
    """What the messages of a queue wait for."""

    WORK = "work"
    RETRY = "retry"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """
    A queue of a consumer.

    Args:
        of: Its work queue, which may be the queue itself.
        messages: None if it does not exist, or could not be asked; likewise the others.
        former: Whether it belongs to a delay that is configured no more; None if no process of
            the consumer says which are.
        orphaned: Whether its work queue does not exist, so that no message in it returns.

    """

    queue: str
    of: str
    kind: QueueKind
    exists: bool
    messages: int | None
    unsettled: int | None = None
    consumers: int | None = None
    published_rate: float | None = None
    delivered_rate: float | None = None
    former: bool | None = None
    orphaned: bool = False


def split(name: str) -> tuple[str, QueueKind]:
    """Return the work queue that *name* belongs to, and what kind of queue it is."""
    work, retry, _delay = name.rpartition(_RETRY)
    if retry and work:
        return work, QueueKind.RETRY
    if name.endswith(_DEAD) and name != _DEAD:
        return name.removesuffix(_DEAD), QueueKind.DEAD
    return name, QueueKind.WORK


def usual_names(work_queue: str) -> list[str]:
    """Return the names of the queues that a consumer of *work_queue* has by default."""
    retry = [f"{work_queue}{_RETRY}{delay}" for delay in USUAL_DELAYS]
    return [work_queue, *retry, f"{work_queue}{_DEAD}"]


def families(
    found: Sequence[QueueFigures],
    *,
    prefix: str,
    recorded: Collection[str],
    in_use: Mapping[str, Collection[str]],
) -> list[QueueState]:
    """
    Return the queues of consumers among those that the broker has *found*, family by family.

    They are those whose name begins with *prefix*, and those of the *recorded* work queues, which
    are listed even if they do not exist. *in_use* are the queues of running consumers by work
    queue.
    """
    by_name = {each.name: each for each in found}
    names = {name for name in by_name if _is_of_consumer(split(name)[0], prefix, recorded)}
    order = list(QueueKind)

    def place(name: str) -> tuple[str, int, str]:
        work, kind = split(name)
        return work, order.index(kind), name

    return [
        _state(name, by_name, in_use=in_use) for name in sorted(names | {*recorded}, key=place)
    ]


def _is_of_consumer(work_queue: str, prefix: str, recorded: Collection[str]) -> bool:
    return work_queue in recorded or f"{work_queue}.".startswith(f"{prefix}.")


def _state(
    name: str, by_name: Mapping[str, QueueFigures], *, in_use: Mapping[str, Collection[str]]
) -> QueueState:
    work, kind = split(name)
    figures = by_name.get(name)
    used = in_use.get(work)
    return QueueState(
        queue=name,
        of=work,
        kind=kind,
        exists=figures is not None,
        messages=None if figures is None else figures.messages,
        unsettled=None if figures is None else figures.unsettled,
        consumers=None if figures is None else figures.consumers,
        published_rate=None if figures is None else figures.published_rate,
        delivered_rate=None if figures is None else figures.delivered_rate,
        former=None if used is None else name not in used,
        orphaned=kind is not QueueKind.WORK and work not in by_name,
    )
