from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.queues import ConsumerQueues
from outbox.transports.topology import Binding, Exchange, Queue, matches, publishing

QUEUES = ConsumerQueues(
    "steps",
    bindings=["health.processing.#", "health.steps"],
    delays=[timedelta(seconds=5), timedelta(milliseconds=1500), timedelta(seconds=5)],
    message_ttl=timedelta(minutes=2),
    delivery_limit=7,
)
TOPOLOGY = QUEUES.topology(main_exchange="events", dlx_exchange="dead-letters")


@pytest.mark.parametrize(
    ("pattern", "routing_key"),
    [
        ("#", "health"),
        ("#", ""),
        ("größe.*", "größe.höhe"),
    ],
)
def test_a_pattern_fits(pattern, routing_key):
    assert matches(pattern, routing_key)


@pytest.mark.parametrize(
    ("pattern", "routing_key"),
    [
        ("health.processing.#", "health.processingsteps"),
        ("health.ste*", "health.steps"),
        ("health#", "health.steps"),
        ("h.alth", "hxalth"),
        ("health.+", "health.steps"),
        ("Health", "health"),
        ("*", ""),
        ("#.*", ""),
    ],
)
def test_a_pattern_does_not_fit(pattern, routing_key):
    assert not matches(pattern, routing_key)


def fits(pattern: list[str], words: list[str]) -> bool:
    """The rules of AMQP 0-9-1, section 3.1.3.3, word by word."""
    match pattern, words:
        case [], _:
            return not words
        case ["#", *rest], _:
            return any(fits(rest, words[skipped:]) for skipped in range(len(words) + 1))
        case [_, *_], []:
            return False
        case [first, *rest], [word, *others]:
            return first in {"*", word} and fits(rest, others)
    return False


@given(
    st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=5),
)
def test_patterns_follow_the_rules_word_by_word(pattern, words):
    assert matches(".".join(pattern), ".".join(words)) == fits(pattern, words)


@pytest.mark.parametrize(
    ("delay", "name"),
    [
        (timedelta(milliseconds=200), "steps.retry.200ms"),
        (timedelta(milliseconds=1500), "steps.retry.1500ms"),
        (timedelta(seconds=5), "steps.retry.5s"),
        (timedelta(minutes=10), "steps.retry.600s"),
    ],
)
def test_a_retry_queue_is_named_after_its_delay(delay, name):
    assert QUEUES.retry(delay) == name


def test_each_delay_has_one_queue_in_order_of_length():
    assert list(QUEUES.retry_queues.items()) == [
        (timedelta(milliseconds=1500), "steps.retry.1500ms"),
        (timedelta(seconds=5), "steps.retry.5s"),
    ]


def test_a_consumer_has_a_dead_queue_retry_queues_and_a_work_queue():
    assert [queue.name for queue in TOPOLOGY.queues] == [
        "steps.dead",
        "steps.retry.1500ms",
        "steps.retry.5s",
        "steps",
    ]


def test_every_queue_is_a_quorum_queue():
    assert {queue.arguments["x-queue-type"] for queue in TOPOLOGY.queues} == {"quorum"}


def test_the_work_queue_dead_letters_to_the_dead_queue():
    work = TOPOLOGY.queues[-1]

    assert work == Queue(
        "steps",
        {
            "x-queue-type": "quorum",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "dead-letters",
            "x-dead-letter-routing-key": "steps",
            "x-delivery-limit": 7,
            "x-message-ttl": 120_000,
        },
    )
    assert Binding("dead-letters", "steps.dead", "steps") in TOPOLOGY.bindings


def test_the_dead_queue_drops_no_message():
    """
    RabbitMQ 4 would, by default, after 20 deliveries; with the length limit of a policy the queue
    refuses messages, and with its TTL it holds them, since no queue has the name `release`.
    """
    assert TOPOLOGY.queues[0].arguments == {
        "x-queue-type": "quorum",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "steps.dead.release",
        "x-delivery-limit": 2**31 - 1,
    }
    assert "steps.dead.release" not in {queue.name for queue in TOPOLOGY.queues}


def test_a_retry_queue_leads_straight_back_to_the_work_queue():
    retry = TOPOLOGY.queues[1]

    assert retry.arguments["x-message-ttl"] == 1500
    assert retry.arguments["x-dead-letter-exchange"] == ""
    assert retry.arguments["x-dead-letter-routing-key"] == "steps"


def test_each_pattern_binds_the_work_queue_to_the_main_exchange():
    assert [each for each in TOPOLOGY.bindings if each.exchange == "events"] == [
        Binding("events", "steps", "health.processing.#"),
        Binding("events", "steps", "health.steps"),
    ]


def test_without_a_time_to_live_the_work_queue_has_none():
    queues = ConsumerQueues("steps", bindings=[], delays=[])

    topology = queues.topology(main_exchange="events", dlx_exchange="dead-letters")

    assert "x-message-ttl" not in topology.queues[-1].arguments


def test_publishing_needs_both_exchanges_and_no_queue():
    topology = publishing(main_exchange="events", dlx_exchange="dead-letters")

    assert topology.exchanges == [Exchange("events", "topic"), Exchange("dead-letters", "direct")]
    assert not topology.queues
