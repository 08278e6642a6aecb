"""
The random load of the producers.
"""

import random
from collections import Counter

import pytest

from tests.reliability.consumers import FAILS_ALWAYS, FAILS_ONCE, HAPPENED
from tests.reliability.leak_marker import LEAK_MARKER
from tests.reliability.outcomes import consumer_of
from tests.reliability.producers import Load, draft

LOAD = Load(keys=3, events_per_transaction=4, failing_once=0.2, failing_always=0.1)
TIMES = 2_000


def drafts(load: Load = LOAD, *, seed: int = 1):
    jitter = random.Random(seed)
    return [draft(load, jitter) for _ in range(TIMES)]


def test_producers_keep_the_shares_of_their_load():
    made = drafts()
    events = [event for each in made for event in each.events]
    types = Counter(event.type for event in events)

    assert sum(each.key is not None for each in made) / TIMES == pytest.approx(0.5, abs=0.05)
    assert sum(not each.is_kept for each in made) / TIMES == pytest.approx(0.05, abs=0.02)
    assert types[FAILS_ONCE] / len(events) == pytest.approx(0.2, abs=0.03)
    assert types[FAILS_ALWAYS] / len(events) == pytest.approx(0.1, abs=0.03)
    assert set(types) == {HAPPENED, FAILS_ONCE, FAILS_ALWAYS}
    assert {len(each.events) for each in made} == {1, 2, 3, 4}


def test_events_of_a_transaction_share_one_of_the_keys_of_the_load():
    made = drafts()

    assert all({event.ordering_key for event in each.events} == {each.key} for each in made)
    assert len({each.key for each in made} - {None}) == 3


def test_every_body_holds_the_leak_marker():
    assert all(LEAK_MARKER in event.body for each in drafts() for event in each.events)


def test_the_same_seed_makes_the_same_transactions():
    def shape(seed: int) -> list[object]:
        return [
            (each.key, each.is_kept, [event.type for event in each.events])
            for each in drafts(seed=seed)
        ]

    assert shape(1) == shape(1)
    assert shape(1) != shape(2)


@pytest.mark.parametrize("rest", ["", ".retry.200ms", ".dead"])
def test_a_queue_belongs_to_the_consumer_that_it_is_named_after(rest):
    assert consumer_of(f"health_data_processing.ordered{rest}") == "ordered"
