"""
What a reading means: processes, rates, lag and queues. Pure; it is also the JSON document.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from outbox.database.processes import RegisteredProcess
from outbox.runtime.figures import ReportedFigures, read_figures
from outbox.transports.broker_figures import BrokerFigures, QueueFigures
from relay.monitor.lag import Stage, stages
from relay.monitor.queue_family import QueueState, families
from relay.monitor.reading import DatabaseReading, Problem, Reading, RecordedQueues
from relay.storage.base import Backlog
from relay.storage.overview import FailingCount, SourceCount
from relay.storage.settlement import SOURCE

TOP_QUEUES = 5
_SUCCESS = "success"
_FAILED_ATTEMPTS = ("retry", "parked", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """
    A relay or a consumer.

    Args:
        alive: Whether it has reported in time.
        replaced: Whether it is gone, and a process of its name has started since.
        rate: Events that it published, or messages that it handled, in a second.

    """

    role: str
    name: str
    host: str
    pid: int
    version: str
    alive: bool
    replaced: bool
    uptime: timedelta
    unseen: timedelta
    waiting_for: str | None
    rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """
    Events and messages in a second, over the last minute.

    Args:
        recorded: Derived from the events published and the growth of the outbox since the reading
            before; None without one.
        failed: Attempts at messages that failed.

    """

    recorded: float | None
    published: float
    handled: float
    failed: float


@dataclass(frozen=True, slots=True)
class MissingConsumer:
    """A consumer that the database knows, and that has no process."""

    consumer: str
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """
    The state of relays, consumers, outbox and broker.

    Args:
        database_problem: Why the database could not be asked; then all that it knows is missing.
        broker_problem: The same of the broker.
        broker: None if it could not be asked, or has no management API.
        queues: The queues of consumers; None if the broker could not be asked.
        top_queues: The queues of the virtual host with most messages.

    """

    database_problem: str | None
    broker_problem: str | None
    rates: Rates | None
    outbox: Backlog | None
    lag: Sequence[Stage]
    processes: Sequence[ProcessState]
    missing_consumers: Sequence[MissingConsumer]
    queues: Sequence[QueueState] | None
    top_queues: Sequence[QueueFigures]
    broker: BrokerFigures | None
    dead_letters: Sequence[SourceCount]
    failing: Sequence[FailingCount]


def snapshot(
    reading: Reading, *, prefix: str, unseen: timedelta, before: Reading | None = None
) -> Snapshot:
    """
    Return what *reading* means; *before* is an earlier one, for rates.

    Queues of consumers begin with *prefix*. A process is gone that was *unseen* for this time.
    """
    database, broker = reading.database, reading.broker
    known = database if isinstance(database, DatabaseReading) else None
    registered = known.processes if known else ()
    live = [each for each in registered if each.unseen <= unseen]
    figures = [(each, read_figures(each.figures)) for each in live]
    targets = {} if known is None else known.targets
    recorded = {name: queue for name, queue in targets.items() if name != SOURCE}
    running = {each.name for each in live if each.role == "consumer"}
    return Snapshot(
        database_problem=database.text if isinstance(database, Problem) else None,
        broker_problem=broker.text if isinstance(broker, Problem) else None,
        rates=None if known is None else _rates(known, figures, reading=reading, before=before),
        outbox=None if known is None else known.backlog,
        lag=stages(each.lags for _, each in figures),
        processes=[_process(each, live) for each in registered],
        missing_consumers=[
            MissingConsumer(name, queue) for name, queue in recorded.items() if name not in running
        ],
        queues=_queues(reading, prefix, set(recorded.values()), figures),
        top_queues=_top(broker.queues) if isinstance(broker, BrokerFigures) else (),
        broker=broker if isinstance(broker, BrokerFigures) else None,
        dead_letters=known.dead_letters if known else (),
        failing=known.failing if known else (),
    )


def _process(process: RegisteredProcess, live: Sequence[RegisteredProcess]) -> ProcessState:
    alive = process in live
    same = (each for each in live if (each.role, each.name) == (process.role, process.name))
    replaced = not alive and any(each.uptime + each.unseen < process.unseen for each in same)
    rates = read_figures(process.figures).rates if alive else {}
    return ProcessState(
        role=process.role,
        name=process.name,
        host=process.host,
        pid=process.pid,
        version=process.version,
        alive=alive,
        replaced=replaced,
        uptime=process.uptime,
        unseen=process.unseen,
        waiting_for=process.waiting_for,
        rate=rates.get(_SUCCESS, 0.0) if alive else None,
    )


def _rates(
    database: DatabaseReading,
    figures: Sequence[tuple[RegisteredProcess, ReportedFigures]],
    *,
    reading: Reading,
    before: Reading | None,
) -> Rates:
    def rate(role: str, *names: str) -> float:
        return sum(
            each.rates.get(name, 0.0)
            for process, each in figures
            if process.role == role
            for name in names
        )

    published, recorded = rate("relay", _SUCCESS), None
    if before is not None and isinstance(before.database, DatabaseReading):
        seconds = reading.at - before.at
        growth = database.backlog.rows - before.database.backlog.rows
        recorded = max(published + growth / seconds, 0.0) if seconds > 0 else None
    return Rates(
        recorded=recorded,
        published=published,
        handled=rate("consumer", _SUCCESS),
        failed=rate("consumer", *_FAILED_ATTEMPTS),
    )


def _queues(
    reading: Reading,
    prefix: str,
    recorded: set[str],
    figures: Iterable[tuple[RegisteredProcess, ReportedFigures]],
) -> list[QueueState] | None:
    match reading.broker:
        case Problem():
            return None
        case BrokerFigures(queues=queues):
            found = queues
        case RecordedQueues(depths=depths):
            found = [
                QueueFigures(
                    name=name,
                    messages=depth.messages,
                    unsettled=0,
                    consumers=depth.consumers,
                )
                for name, depth in depths.items()
                if depth is not None
            ]
    return families(found, prefix=prefix, recorded=recorded, in_use=_in_use(figures))


def _in_use(
    figures: Iterable[tuple[RegisteredProcess, ReportedFigures]],
) -> dict[str, set[str]]:
    """The queues of running consumers by work queue; processes of two versions may differ."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for _, each in figures:
        names = each.facts.get("queues")
        if isinstance(names, list) and names:
            found[str(names[0])] |= set(map(str, names))
    return found


def _top(queues: Iterable[QueueFigures]) -> list[QueueFigures]:
    filled = [each for each in queues if each.messages]
    return sorted(filled, key=lambda each: (-each.messages, each.name))[:TOP_QUEUES]
