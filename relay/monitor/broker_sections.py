"""
The sections of the monitor about queues and the broker: pure.
"""

from collections.abc import Iterator, Sequence

from outbox.transports.broker_figures import BrokerFigures, NodeFigures
from relay.monitor.queue_family import QueueState
from relay.monitor.section import NOTHING, Column, Section, rate_text, size_text
from relay.monitor.snapshot import Snapshot


def queue_sections(found: Snapshot) -> Iterator[Section]:
    """Return the queues of consumers."""
    if found.queues is None:
        return
    yield Section(
        "queues of consumers" if found.queues else "no queue of a consumer",
        [
            Column("queue", is_text=True),
            Column("kind", 100, is_text=True),
            Column("messages"),
            Column("unsettled", 100),
            Column("consumers"),
            Column("in/s", 120),
            Column("out/s", 120),
            Column("remark", 80, is_text=True),
        ],
        [
            (
                each.queue,
                each.kind.value,
                each.messages,
                each.unsettled,
                each.consumers,
                rate_text(each.published_rate),
                rate_text(each.delivered_rate),
                _remark(each),
            )
            for each in found.queues
        ],
    )


def _remark(state: QueueState) -> str:
    if not state.exists:
        return "missing"
    if state.orphaned:
        return "no work queue"
    return "former setting" if state.former else ""


def broker_sections(broker: BrokerFigures) -> Iterator[Section]:
    """Return connections, nodes, and what this user may not see."""
    connections = broker.connections
    blocked = None if connections is None else sum(each.is_blocked for each in connections)
    yield Section(
        f"broker: {broker.version}",
        [
            *(Column(name) for name in ("connections", "blocked", "channels")),
            *(Column(name, 80) for name in ("in/s", "out/s", "acked/s")),
        ],
        [
            (
                None if connections is None else len(connections),
                blocked,
                broker.channels,
                *map(rate_text, (broker.published_rate, broker.delivered_rate, broker.acked_rate)),
            )
        ],
    )
    for text in broker.not_shown:
        yield Section(f"not shown: {text}", [], [])
    if broker.nodes:
        yield _nodes(broker.nodes)


def _nodes(nodes: Sequence[NodeFigures]) -> Section:
    return Section(
        "nodes",
        [
            Column("node", is_text=True),
            Column("memory"),
            Column("of limit", 80),
            Column("disk free"),
            Column("limit", 100),
            Column("alarms", is_text=True),
        ],
        [
            (
                node.name,
                size_text(node.memory_used),
                NOTHING if node.memory_ratio is None else f"{node.memory_ratio:.0%}",
                size_text(node.disk_free),
                size_text(node.disk_limit),
                ", ".join(_alarms(node)),
            )
            for node in nodes
        ],
    )


def _alarms(node: NodeFigures) -> list[str]:
    states = {
        "does not run": not node.running,
        "memory": node.memory_alarm,
        "disk": node.disk_alarm,
        "partitioned": bool(node.partitions),
    }
    return [name for name, is_raised in states.items() if is_raised]


def top_queues(found: Snapshot) -> Section:
    """Return the queues of the virtual host that hold most messages."""
    return Section(
        "queues with most messages" if found.top_queues else "no queue holds a message",
        [
            Column("queue", is_text=True),
            Column("messages"),
            Column("unsettled", 80),
            Column("consumers", 80),
        ],
        [(each.name, each.messages, each.unsettled, each.consumers) for each in found.top_queues],
    )
