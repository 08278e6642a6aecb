"""
Which process reads which partitions, and how: pure.

Each generation is shared evenly: the numbers of partitions of two processes differ by at most one.
The processes that have one more are others in each generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

from consumer.partition_queues import PartitionQueues
from consumer.storage.generations import State
from consumer.storage.partitions import Moves, Partition, Shared


class Mode(Enum):
    """How the messages of a partition are read."""

    WAIT = auto()
    """They are kept until all older partitions are drained."""
    HANDLE = auto()
    """They are handled."""
    DRAIN = auto()
    """They are handled up to a drain marker, which this process publishes."""
    FORWARD = auto()
    """The partition is drained: they are forwarded to the current generation."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A partition that this process reads."""

    generation: int
    number: int
    queue: str
    mode: Mode


@dataclass(frozen=True, slots=True)
class Assignment:
    """The partitions of this process; *entrance* is the exchange to forward to."""

    partitions: tuple[Assigned, ...] = ()
    entrance: str = ""

    @property
    def queues(self) -> frozenset[str]:
        """The queues to read."""
        return frozenset(each.queue for each in self.partitions)


def read_partitions(shared: Shared) -> dict[int, list[Partition]]:
    """The partitions that processes subscribe to, by generation."""
    return {
        generation.number: [
            each for each in shared.partitions if each.generation == generation.number
        ]
        for generation in shared.generations
        if generation.state in {State.CURRENT, State.DRAINING}
    }


def is_open(shared: Shared, generation: int) -> bool:
    """Whether messages of *generation* are handled: all partitions of older ones are drained."""
    return all(each.is_drained for each in shared.partitions if each.generation < generation)


def is_changing(shared: Shared) -> bool:
    """Whether the number of partitions is changing."""
    states = {each.state for each in shared.generations if each.number}
    newest = max((each.number for each in shared.generations), default=0)
    return states > {State.CURRENT} or not is_open(shared, newest)


def moves(shared: Shared, member: UUID) -> Moves:
    """What *member* has to claim, and to release, for its share of each generation."""
    readable = read_partitions(shared)
    claims: list[tuple[int, int]] = []
    releases = [
        (each.generation, each.number)
        for each in shared.partitions
        if each.owner == member and each.generation not in readable
    ]
    for generation, partitions in readable.items():
        share = _share(len(partitions), shared.members, member, generation)
        own = [each for each in partitions if each.owner == member]
        free = [each for each in partitions if each.owner not in shared.members]
        releases += [(generation, each.number) for each in own[share:]]
        claims += [(generation, each.number) for each in free[: max(share - len(own), 0)]]
    return Moves(claims, releases)


def _share(partitions: int, members: Sequence[UUID], member: UUID, generation: int) -> int:
    if member not in members:
        return 0
    each, further = divmod(partitions, len(members))
    rank = (members.index(member) - generation) % len(members)
    return each + (1 if rank < further else 0)


def assignment(shared: Shared, member: UUID, queues: PartitionQueues) -> Assignment:
    """The partitions that *member* reads."""
    states = {each.number: each.state for each in shared.generations}
    current = max((n for n, state in states.items() if state is State.CURRENT), default=0)
    found = [
        Assigned(
            each.generation,
            each.number,
            queues.queue(each.generation, each.number),
            _mode(each, states[each.generation], is_open=is_open(shared, each.generation)),
        )
        for partitions in read_partitions(shared).values()
        for each in partitions
        if each.owner == member
    ]
    return Assignment(tuple(found), queues.entrance(current) if current else "")


def _mode(partition: Partition, state: State, *, is_open: bool) -> Mode:
    if not is_open:
        return Mode.WAIT
    if partition.is_drained:
        return Mode.FORWARD
    return Mode.DRAIN if state is State.DRAINING else Mode.HANDLE
