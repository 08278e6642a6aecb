"""
What a broker does: its queues, connections, memory and disk, as values.

A figure is None if the broker does not have it, or does not show it to this user.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFigures:
    """
    A queue.

    Args:
        messages: The ready and the unsettled ones.
        unsettled: Messages that were delivered and not acked.
        consumers: Subscriptions.
        published_rate: Messages that came in, in a second; likewise *delivered_rate*.

    """

    name: str
    messages: int
    unsettled: int
    consumers: int
    published_rate: float | None = None
    delivered_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFigures:
    """
    A node of the broker, with memory and disk in bytes.

    An alarm stops all publishers. *partitions* are the nodes that it does not see though they run.
    """

    name: str
    running: bool = True
    memory_used: int | None = None
    memory_limit: int | None = None
    memory_alarm: bool = False
    disk_free: int | None = None
    disk_limit: int | None = None
    disk_alarm: bool = False
    partitions: Sequence[str] = ()

    @property
    def memory_ratio(self) -> float | None:
        """The share of the memory limit that is used; at 1 the alarm is raised."""
        if self.memory_used is None or not self.memory_limit:
            return None
        return self.memory_used / self.memory_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFigures:
    """A connection: the *name* that its client gave it, and the number of its *channels*."""

    name: str
    state: str
    channels: int

    @property
    def is_blocked(self) -> bool:
        """Whether the broker does not read from it, because of an alarm."""
        return self.state in {"blocked", "blocking"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFigures:
    """
    A broker, and one virtual host of it.

    Args:
        connections: Those of the virtual host; None if the broker has none.
        channels: Channels of the whole broker.
        nodes: None if this user may not see them.
        published_rate: Messages that came in, in a second; likewise the others.
        not_shown: What this user may not see, and why.

    """

    version: str
    queues: Sequence[QueueFigures]
    nodes: Sequence[NodeFigures] | None
    connections: Sequence[ConnectionFigures] | None = None
    channels: int | None = None
    published_rate: float | None = None
    delivered_rate: float | None = None
    acked_rate: float | None = None
    not_shown: Sequence[str] = ()
