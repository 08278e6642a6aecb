"""
Which process reads which partitions: pure.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from consumer.partition_queues import PartitionQueues
from consumer.partitions.balance import Mode, assignment, is_changing, moves
from consumer.queues import ConsumerQueues
from consumer.storage.generations import Generation, State
from consumer.storage.partitions import Partition, Shared

QUEUES = PartitionQueues(ConsumerQueues("q", bindings=["#"], delays=[]), "main", "dlx")
MEMBERS = [UUID(int=number) for number in range(1, 9)]


def shared(*generations: tuple[int, int, State], members: int = 1) -> Shared:
    """Generations, each with its number, partitions and state; no partition has an owner."""
    return Shared(
        [Generation(*each) for each in generations],
        [
            Partition(number, index, None, is_drained=False)
            for number, count, _ in generations
            for index in range(count)
        ],
        MEMBERS[:members],
    )


def drained(found: Shared, generation: int) -> Shared:
    partitions = [
        replace(each, is_drained=True) if each.generation == generation else each
        for each in found.partitions
    ]
    return replace(found, partitions=partitions)


def moved(found: Shared, member: UUID) -> Shared:
    """*found* after the moves of *member*."""
    chosen = moves(found, member)

    def after(each: Partition) -> Partition:
        key = (each.generation, each.number)
        if key in chosen.releases:
            return replace(each, owner=None)
        return replace(each, owner=member) if key in chosen.claims else each

    return replace(found, partitions=[after(each) for each in found.partitions])


def settled(found: Shared) -> Shared:
    """*found* after two rounds in which each process moves: the second one claims what is free."""
    for _ in range(2):
        for member in found.members:
            found = moved(found, member)
    return found


def shares(found: Shared, generation: int) -> Sequence[int]:
    owners = Counter(each.owner for each in found.partitions if each.generation == generation)
    return sorted(owners[member] for member in found.members)


@given(partitions=st.integers(1, 40), before=st.integers(1, 8), now=st.integers(1, 8))
def test_any_number_of_processes_come_to_equal_shares(partitions, before, now):
    found = settled(shared((1, partitions, State.CURRENT), members=before))
    found = settled(replace(found, members=MEMBERS[:now]))
    counts = shares(found, 1)

    assert sum(counts) == partitions
    assert max(counts) - min(counts) <= 1
    assert all(moves(found, member).claims == [] for member in found.members)
    assert all(moves(found, member).releases == [] for member in found.members)


def test_a_process_takes_no_partition_that_another_one_reads():
    found = moved(shared((1, 4, State.CURRENT)), MEMBERS[0])
    found = replace(found, members=MEMBERS[:2])

    assert moves(found, MEMBERS[1]).claims == []
    assert len(moves(found, MEMBERS[0]).releases) == 2


def test_a_generation_waits_until_all_partitions_before_it_are_drained():
    def modes(found: Shared) -> list[Mode]:
        return [each.mode for each in assignment(found, MEMBERS[0], QUEUES).partitions]

    found = settled(shared((0, 1, State.DRAINING), (1, 2, State.DRAINING), (2, 1, State.CURRENT)))
    assert modes(found) == [Mode.DRAIN, Mode.WAIT, Mode.WAIT, Mode.WAIT]
    found = drained(found, 0)
    assert modes(found) == [Mode.FORWARD, Mode.DRAIN, Mode.DRAIN, Mode.WAIT]
    found = drained(found, 1)
    assert modes(found) == [Mode.FORWARD, Mode.FORWARD, Mode.FORWARD, Mode.HANDLE]


def test_the_number_changes_while_a_generation_is_not_read_to_its_end():
    settled_down = drained(shared((0, 1, State.DRAINING), (2, 1, State.CURRENT)), 0)
    assert not is_changing(settled_down)
    assert not is_changing(shared())
    assert is_changing(shared((0, 1, State.DRAINING), (1, 1, State.CURRENT)))
    retired = shared((0, 1, State.DRAINING), (1, 1, State.RETIRED), (2, 1, State.CURRENT))
    assert is_changing(drained(drained(retired, 0), 1))


def test_a_generation_that_is_only_declared_is_not_read():
    found = drained(shared((0, 1, State.CURRENT), (1, 2, State.DECLARED)), 0)
    assert set(moves(found, MEMBERS[0]).claims) == {(0, 0)}


def test_a_retired_generation_is_released():
    found = drained(shared((1, 2, State.RETIRED), (2, 1, State.CURRENT)), 1)
    owned = [replace(each, owner=MEMBERS[0]) for each in found.partitions]
    assert set(moves(replace(found, partitions=owned), MEMBERS[0]).releases) == {(1, 0), (1, 1)}


def test_a_drained_partition_is_forwarded_to_the_current_generation():
    found = shared((0, 1, State.DRAINING), (1, 1, State.DRAINING), (2, 1, State.CURRENT))
    found = settled(drained(found, 0))
    read = assignment(found, MEMBERS[0], QUEUES)

    assert [(each.queue, each.mode) for each in read.partitions] == [
        ("q", Mode.FORWARD),
        ("q.g1.0", Mode.DRAIN),
        ("q.g2.0", Mode.WAIT),
    ]
    assert read.entrance == "q.g2"


def test_two_generations_give_their_odd_partitions_to_different_processes():
    found = settled(drained(shared((0, 1, State.DRAINING), (1, 1, State.CURRENT), members=2), 0))
    assert {each.owner for each in found.partitions} == set(MEMBERS[:2])
