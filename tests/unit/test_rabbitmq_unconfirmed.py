"""
Each message of a batch gets its own confirm, whichever way the broker confirms it.
"""

from types import SimpleNamespace
from typing import Any

import aiormq
from hypothesis import example, given
from hypothesis import strategies as st
from pamqp.commands import Basic

from outbox.transports.rabbitmq.unconfirmed import Batch, take_over

SIZES = (3, 1, 4)
LAST = sum(SIZES)
OTHER = LAST + 1
"""The delivery tag of another caller's publish."""

tags = st.integers(1, OTHER)
events = st.lists(
    st.tuples(st.just("return"), st.integers(1, LAST))
    | st.tuples(st.sampled_from(["ack", "nack", "ack up to", "nack up to"]), tags),
    max_size=12,
)


class Complete:
    """A future of a batch."""

    def __init__(self) -> None:
        self.is_done = False

    def done(self) -> bool:
        return self.is_done

    def set_result(self, _: None) -> None:
        assert not self.is_done
        self.is_done = True


def a_channel() -> tuple[Any, list[Batch]]:
    channel = SimpleNamespace(
        _confirm_delivery=lambda tag, _: channel.confirmations.pop(tag, None)
    )
    take_over(channel)
    batches, first = [], 1
    for size in SIZES:
        ids = [f"id-{tag}" for tag in range(first, first + size)]
        batches.append(Batch(first, ids, complete=Complete()))
        channel.confirmations.begin(batches[-1])
        first += size
    channel.confirmations[OTHER] = "another caller's future"
    return channel, batches


def happen(channel: Any, event: str, tag: int) -> None:
    if event == "return":
        # As aiormq does it.
        if (found := channel.message_id_delivery_tag.get(f"id-{tag}")) is not None:
            future = channel.confirmations.pop(found, None)
            channel.confirmations[found] = "its ack is to be ignored"
            returned = SimpleNamespace(delivery=Basic.Return())
            future.set_exception(aiormq.exceptions.PublishError(returned, returned.delivery))
        return
    kind = Basic.Nack if event.startswith("nack") else Basic.Ack
    handling = channel._on_confirm_frame(kind(tag, multiple=event.endswith("up to")))
    try:
        handling.send(None)
    except StopIteration:
        return


@given(events)
@example([("return", 2), ("ack up to", 3)])
@example([("ack", 2), ("nack up to", OTHER)])
@example([("ack up to", LAST), ("return", 1)])
def test_the_first_confirm_of_each_message_is_its_own_and_no_other_counts(events):
    channel, batches = a_channel()
    expected: dict[int, str] = {}
    for event, tag in events:
        kind = event.removesuffix(" up to")
        for each in range(1, tag + 1) if event.endswith("up to") else [tag]:
            expected.setdefault(each, kind)
        happen(channel, event, tag)

    names = {
        type(None): None,
        Basic.Ack: "ack",
        aiormq.exceptions.DeliveryError: "nack",
        aiormq.exceptions.PublishError: "return",
    }
    found = [names[type(confirm)] for batch in batches for confirm in batch.confirms]

    assert found == [expected.get(tag) for tag in range(1, LAST + 1)]
    assert (OTHER in channel.confirmations) == (OTHER not in expected)
    assert len(channel.confirmations) == OTHER - len(expected)
    assert [batch.complete.done() for batch in batches] == [
        all(tag in expected for tag in range(batch.first, batch.last + 1)) for batch in batches
    ]


def test_a_return_belongs_to_the_batch_in_flight_and_not_to_an_earlier_one_with_the_same_id():
    channel, batches = a_channel()
    happen(channel, "ack up to", OTHER)
    again = Batch(OTHER + 1, ["id-2"], complete=Complete())
    channel.confirmations.begin(again)

    happen(channel, "return", 2)
    happen(channel, "ack up to", OTHER + 1)

    assert [type(confirm) for confirm in again.confirms] == [aiormq.exceptions.PublishError]
    assert {type(confirm) for batch in batches for confirm in batch.confirms} == {Basic.Ack}


def test_a_batch_that_was_not_sent_waits_for_nothing():
    channel, _ = a_channel()
    happen(channel, "ack up to", OTHER)
    unsent = Batch(OTHER + 1, ["a", "b"], complete=Complete())

    channel.confirmations.begin(unsent)
    channel.confirmations.withdraw(unsent)

    assert not channel.confirmations
    assert channel.message_id_delivery_tag.get("a") is None
