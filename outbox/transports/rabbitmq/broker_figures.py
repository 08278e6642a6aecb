"""
Figures of RabbitMQ, from the answers of its management API: pure.

A broker that collects no statistics, or has none yet, leaves figures out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from outbox.transports.broker_figures import (
    BrokerFigures,
    ConnectionFigures,
    NodeFigures,
    QueueFigures,
)

QUEUE_COLUMNS = (
    "columns=name,messages,messages_unacknowledged,consumers,"
    "message_stats.publish_details.rate,message_stats.deliver_get_details.rate"
)
NODE_COLUMNS = (
    "columns=name,running,mem_used,mem_limit,mem_alarm,disk_free,disk_free_limit,"
    "disk_free_alarm,partitions"
)
CONNECTION_COLUMNS = "columns=name,state,channels,client_properties.connection_name"


def broker_figures(
    overview: Mapping[str, Any],
    *,
    queues: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]] | None,
    connections: Sequence[Mapping[str, Any]] | None,
    not_shown: Sequence[str] = (),
) -> BrokerFigures:
    """Return the figures in the four answers; None stands for one that was refused."""
    totals = overview.get("object_totals") or {}
    return BrokerFigures(
        version=f"RabbitMQ {overview.get('rabbitmq_version', '')}".strip(),
        queues=[_queue(each) for each in queues],
        nodes=None if nodes is None else [_node(each) for each in nodes],
        connections=None if connections is None else [_connection(each) for each in connections],
        channels=_count(totals.get("channels")),
        published_rate=_rate(overview, "publish"),
        delivered_rate=_rate(overview, "deliver_get"),
        acked_rate=_rate(overview, "ack"),
        not_shown=not_shown,
    )


def _queue(answer: Mapping[str, Any]) -> QueueFigures:
    return QueueFigures(
        name=answer["name"],
        messages=_count(answer.get("messages")) or 0,
        unsettled=_count(answer.get("messages_unacknowledged")) or 0,
        consumers=_count(answer.get("consumers")) or 0,
        published_rate=_rate(answer, "publish"),
        delivered_rate=_rate(answer, "deliver_get"),
    )


def _node(answer: Mapping[str, Any]) -> NodeFigures:
    return NodeFigures(
        name=answer["name"],
        running=answer.get("running") is True,
        memory_used=_count(answer.get("mem_used")),
        memory_limit=_count(answer.get("mem_limit")),
        memory_alarm=answer.get("mem_alarm") is True,
        disk_free=_count(answer.get("disk_free")),
        disk_limit=_count(answer.get("disk_free_limit")),
        disk_alarm=answer.get("disk_free_alarm") is True,
        partitions=[str(each) for each in answer.get("partitions") or ()],
    )


def _connection(answer: Mapping[str, Any]) -> ConnectionFigures:
    properties = answer.get("client_properties")
    given = properties.get("connection_name") if isinstance(properties, Mapping) else None
    return ConnectionFigures(
        name=str(given or answer.get("name", "")),
        state=str(answer.get("state", "")),
        channels=_count(answer.get("channels")) or 0,
    )


def _count(value: Any) -> int | None:
    # `disk_free` is a word while the broker does not know it.
    return value if type(value) is int else None


def _rate(answer: Mapping[str, Any], kind: str) -> float | None:
    details = (answer.get("message_stats") or {}).get(f"{kind}_details")
    rate = details.get("rate") if isinstance(details, Mapping) else None
    return float(rate) if isinstance(rate, int | float) else None
