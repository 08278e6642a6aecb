"""
Which figures need a person: pure.

Alerts have the names of those in `deploy/prometheus/rules.yml` where both look at the same thing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import assert_never

from outbox.transports.broker_figures import NodeFigures
from relay.event_group import EventState
from relay.monitor.queue_family import QueueKind, QueueState
from relay.monitor.snapshot import Snapshot
from relay.monitor.thresholds import Thresholds
from relay.storage.base import Backlog

OLD_SNAPSHOT = timedelta(hours=1)
MANY_DEAD_TUPLES = 1_000_000


class Severity(StrEnum):
    """How soon a person has to look."""

    CRITICAL = "critical"
    """Events do not move, or one is set aside."""
    WARNING = "warning"
    """It will become critical, or costs time."""


@dataclass(frozen=True, slots=True)
class Alert:
    """
    A figure that needs a person.

    Args:
        subject: The process, queue, node or consumer; None for the whole.

    """

    name: str
    severity: Severity
    subject: str | None
    text: str


def alerts(found: Snapshot, limits: Thresholds) -> list[Alert]:
    """Return the alerts of a snapshot, the critical ones first."""
    raised = [
        *_servers(found),
        *_processes(found),
        *_consumers(found, limits),
        *(_outbox(found.outbox, limits) if found.outbox else ()),
        *_dead_letters(found, limits),
        *(each for queue in found.queues or () for each in _queue(queue, limits)),
        *_broker(found, limits),
    ]
    order = list(Severity)
    return sorted(raised, key=lambda each: order.index(each.severity))


def _critical(name: str, subject: str | None, text: str) -> Alert:
    return Alert(name, Severity.CRITICAL, subject, text)


def _warning(name: str, subject: str | None, text: str) -> Alert:
    return Alert(name, Severity.WARNING, subject, text)


def _servers(found: Snapshot) -> Iterator[Alert]:
    if found.database_problem is not None:
        yield _critical("OutboxDatabaseDown", "database", found.database_problem)
    if found.broker_problem is not None:
        yield _critical("OutboxBrokerDown", "broker", found.broker_problem)


def _processes(found: Snapshot) -> Iterator[Alert]:
    if found.database_problem is None and not any(
        each.alive and each.role == "relay" for each in found.processes
    ):
        yield _critical("OutboxRelayAbsent", "relay", "no relay runs: no event leaves the outbox")
    for each in found.processes:
        subject = f"{each.name} {each.host}:{each.pid}"
        if each.alive and each.waiting_for is not None:
            yield _warning("OutboxServerUnavailable", subject, f"waits for {each.waiting_for}")
        if not each.alive and not each.replaced:
            yield _warning("OutboxProcessDown", subject, f"not seen for {_time(each.unseen)}")


def _consumers(found: Snapshot, limits: Thresholds) -> Iterator[Alert]:
    if not limits.consumers:
        return
    work_queues = [each for each in found.queues or () if each.kind is QueueKind.WORK]
    by_name = {each.queue: each for each in work_queues}
    names = {each.name for each in found.processes}
    for each in found.missing_consumers:
        state = by_name.get(each.queue)
        # One with subscriptions has a process of a version that does not report.
        if state is None or not state.consumers:
            by_name.pop(each.queue, None)
            is_retired = state is not None and not state.exists and each.consumer not in names
            if not is_retired:
                text = f"no process of this consumer runs; its queue is {each.queue}"
                yield _critical("OutboxConsumerAbsent", each.consumer, text)
    for state in by_name.values():
        yield from _subscriptions(state, limits)


def _subscriptions(state: QueueState, limits: Thresholds) -> Iterator[Alert]:
    if not state.exists:
        text = "this work queue does not exist: its consumer gets no message"
        yield _critical("OutboxTopologyProblem", state.queue, text)
    elif state.consumers is not None and state.consumers < limits.consumers:
        text = f"{state.consumers} of at least {limits.consumers} subscriptions"
        yield _critical("OutboxQueueWithoutConsumer", state.queue, text)


def _outbox(backlog: Backlog, limits: Thresholds) -> Iterator[Alert]:
    for state, name, text in _STATES:
        groups = [each for each in backlog.events if each.state is state]
        if groups:
            types = ", ".join(sorted({each.type for each in groups}))
            rows = sum(each.rows for each in groups)
            yield _critical(name, types, f"{rows:,} {text}; see `relay status`")
    if backlog.oldest_ready_age > limits.age:
        text = f"the oldest event that could be published is {_time(backlog.oldest_ready_age)} old"
        yield _critical("OutboxEventsDelayed", None, text)
    elif backlog.oldest_age > limits.age:
        text = f"the oldest event that should have left is {_time(backlog.oldest_age)} old"
        yield _warning("OutboxEventStuck", None, text)
    if backlog.rows > limits.backlog:
        yield _warning("OutboxBacklog", None, f"{backlog.rows:,} rows, above {limits.backlog:,}")
    if (age := backlog.oldest_snapshot_age) is not None and age > OLD_SNAPSHOT:
        text = f"a transaction that is {_time(age)} old keeps vacuum from removing rows"
        yield _warning("OutboxSnapshotOld", None, text)
    if (tuples := backlog.dead_tuples) is not None and tuples > MANY_DEAD_TUPLES:
        yield _warning("OutboxDeadTuples", None, f"{tuples:,} rows wait for vacuum")


_STATES = (
    (EventState.UNROUTABLE, "OutboxEventsUnroutable", "events reach no queue"),
    (EventState.REFUSED, "OutboxEventsRefused", "events were refused by the broker"),
    (EventState.UNSETTLED, "OutboxRowsUnsettled", "rows could not be settled by the database"),
)


def _dead_letters(found: Snapshot, limits: Thresholds) -> Iterator[Alert]:
    total = sum(each.letters for each in found.dead_letters)
    if total > limits.dead_letters:
        sources = ", ".join(sorted({each.source for each in found.dead_letters}))
        text = f"{_number(total, 'dead letter')}, above {limits.dead_letters:,}; see `dead list`"
        yield _critical("OutboxDeadLetters", sources, text)


def _queue(state: QueueState, limits: Thresholds) -> Iterator[Alert]:
    messages = state.messages or 0
    held = _number(messages, "message")
    if state.orphaned and messages:
        text = f"{held}, and no queue {state.of} to which they could return"
        yield _critical("OutboxQueueOrphaned", state.queue, text)
    match state.kind:
        case QueueKind.WORK:
            name = "OutboxQueueLong"
        case QueueKind.RETRY:
            name = "OutboxRetryQueueLong"
            if state.former and messages and not state.orphaned:
                text = f"{held} of a delay that is configured no more; delete the queue when empty"
                yield _warning("OutboxRetryQueueFormer", state.queue, text)
        case QueueKind.DEAD:
            if messages and not state.consumers and not state.orphaned:
                text = f"{held}, and no consumer that stores them"
                yield _warning("OutboxDeadQueueNotEmptied", state.queue, text)
            return
        case _:
            assert_never(state.kind)
    if messages > limits.queue_messages:
        yield _warning(name, state.queue, f"{held}, above {limits.queue_messages:,}")


def _broker(found: Snapshot, limits: Thresholds) -> Iterator[Alert]:
    if found.broker is None:
        return
    nodes: Sequence[NodeFigures] = found.broker.nodes or ()
    for node in nodes:
        yield from _node(node, limits)
    blocked = sum(each.is_blocked for each in found.broker.connections or ())
    if blocked and not any(node.memory_alarm or node.disk_alarm for node in nodes):
        text = f"{blocked:,} connections are blocked: the broker takes no messages"
        yield _critical("OutboxBrokerAlarm", None, text)


def _node(node: NodeFigures, limits: Thresholds) -> Iterator[Alert]:
    if not node.running:
        yield _critical("OutboxBrokerDown", node.name, "this node does not run")
        return
    if node.partitions:
        others = ", ".join(node.partitions)
        yield _critical("OutboxBrokerPartitioned", node.name, f"it does not see {others}")
    if node.memory_alarm or node.disk_alarm:
        kinds = ("memory", node.memory_alarm), ("disk", node.disk_alarm)
        kind = " and ".join(name for name, is_raised in kinds if is_raised)
        text = f"{kind} alarm: the broker takes no messages"
        yield _critical("OutboxBrokerAlarm", node.name, text)
    if (ratio := node.memory_ratio) is not None and ratio > limits.memory_ratio:
        text = f"{ratio:.0%} of its memory limit, above {limits.memory_ratio:.0%}"
        yield _warning("OutboxBrokerMemoryHigh", node.name, text)
    if node.disk_free is not None and node.disk_free < limits.disk_free:
        text = f"{node.disk_free:,} bytes free, below {limits.disk_free:,}"
        yield _warning("OutboxBrokerDiskLow", node.name, text)


def _number(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _time(duration: timedelta) -> str:
    return str(timedelta(seconds=int(duration.total_seconds())))
