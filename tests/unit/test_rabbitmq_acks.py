"""
The broker gets one ack for each settled delivery, in any order of settlement.
"""

from hypothesis import given
from hypothesis import strategies as st

from outbox.transports.rabbitmq.acks import AckBatch, AckTracker

TAGS = 30


class Broker:
    """Accepts acks as RabbitMQ does: an ack of a settled tag is a protocol error."""

    def __init__(self) -> None:
        self.outstanding = set(range(1, TAGS + 1))
        self.acked: set[int] = set()
        self.released: set[int] = set()

    def ack(self, acks: AckBatch) -> None:
        if acks.up_to is not None:
            assert acks.up_to in self.outstanding
            self._acked({tag for tag in self.outstanding if tag <= acks.up_to})
        for tag in acks.single:
            self._acked({tag})

    def release(self, tag: int) -> None:
        self.outstanding.remove(tag)
        self.released.add(tag)

    def _acked(self, tags: set[int]) -> None:
        assert tags <= self.outstanding
        self.outstanding -= tags
        self.acked |= tags


steps = st.lists(
    st.tuples(st.just("ack"), st.lists(st.integers(1, TAGS), max_size=8))
    | st.tuples(st.just("release"), st.integers(1, TAGS))
    | st.tuples(st.just("collect"), st.none()),
    max_size=60,
)


@given(steps)
def test_acks_sent_equal_the_settled_deliveries(steps):
    settled, broker = AckTracker(), Broker()
    acked: set[int] = set()
    for step, argument in [*steps, ("collect", None)]:
        if step == "ack":
            acked |= set(argument) - broker.released
            settled.ack(argument)
        elif step == "release":
            for tag in settled.unsettled([argument]):
                broker.release(tag)
                settled.mark_settled([tag])
        else:
            broker.ack(settled.collect())
            assert broker.acked == acked

    assert settled.waiting == 0


def test_a_run_without_gaps_is_one_ack():
    settled = AckTracker()
    settled.ack([3, 1, 2, 5])

    assert settled.collect() == AckBatch(up_to=3, single=[5])

    settled.mark_settled([4])
    settled.ack([6])

    assert settled.collect() == AckBatch(up_to=6, single=[])


def test_no_delivery_is_acked_twice():
    settled = AckTracker()
    settled.ack([1, 3])
    settled.collect()
    settled.ack([1, 3])

    assert settled.collect() == AckBatch(up_to=None, single=[])
    assert settled.unsettled([1, 2, 3]) == [2]


def test_later_acks_skip_requeued_deliveries():
    settled = AckTracker()
    settled.mark_settled([1])
    settled.ack([2])

    assert settled.collect() == AckBatch(up_to=2, single=[])
