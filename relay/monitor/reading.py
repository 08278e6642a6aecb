"""
What database and broker answered at one moment, or why they did not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from outbox.database.processes import RegisteredProcess
from outbox.transports.base import QueueDepth
from outbox.transports.broker_figures import BrokerFigures
from relay.storage.base import Backlog
from relay.storage.overview import FailingCount, SourceCount


@dataclass(frozen=True, slots=True)
class Problem:
    """
    A server that gave no answer, and the reason.

    Args:
        refused: Whether it refused this user, or is not as it is expected: waiting does not help.

    """

    text: str
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseReading:
    """
    What the database of the outbox says.

    Args:
        targets: The exchange of the relay, and the queue of each consumer, by source.

    """

    backlog: Backlog
    processes: Sequence[RegisteredProcess]
    dead_letters: Sequence[SourceCount]
    failing: Sequence[FailingCount]
    targets: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RecordedQueues:
    """
    The queues of the consumers that the database knows, for a broker without a management API.

    None stands for a queue that does not exist.
    """

    depths: Mapping[str, QueueDepth | None]


BrokerReading: TypeAlias = BrokerFigures | RecordedQueues


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """
    The answers of both servers.

    Args:
        at: When they were asked, in seconds that never go back.

    """

    at: float
    database: DatabaseReading | Problem
    broker: BrokerReading | Problem
