"""
Names and topology of partitions: pure.
"""

from datetime import timedelta

from consumer.partition_marker import drain_marker, is_drain_marker
from consumer.partition_names import is_queue_or_partition
from consumer.partition_queues import PartitionQueues
from consumer.queues import ConsumerQueues
from outbox.transports.topology import Binding, ExchangeBinding
from outbox.wire.codec import WireMessage

BASE = ConsumerQueues(
    "q",
    bindings=["a.#", "b.*"],
    delays=[timedelta(seconds=1)],
    single_active=True,
    is_partitioned=True,
)
QUEUES = PartitionQueues(BASE, "main", "dlx")


def test_a_partition_is_a_work_queue_that_dead_letters_to_the_dead_queue_of_its_consumer():
    topology = QUEUES.topology(3, 2)

    assert [queue.name for queue in topology.queues] == ["q.g3.0", "q.g3.1"]
    assert all(queue.arguments == BASE.work_queue("dlx").arguments for queue in topology.queues)


def test_queues_are_bound_in_the_order_in_which_a_broker_sorts_them():
    bound = [each.queue for each in QUEUES.topology(1, 12).bindings]
    assert bound[:12] == bound[12:] == sorted(bound[:12])


def test_messages_with_a_lane_and_without_go_to_two_exchanges_with_the_same_queues():
    topology = QUEUES.topology(1, 2)
    others, lanes, entrance = topology.exchanges

    assert entrance.declared_arguments == {"alternate-exchange": others.name}
    assert lanes.declared_arguments == {"hash-header": "x-outbox-lane"}
    assert others.declared_arguments == {"hash-property": "message_id"}
    (with_lane,) = topology.exchange_bindings
    assert with_lane.arguments == {"x-match": "all-with-x", "x-outbox-lane": None}
    assert {(each.exchange, each.queue) for each in topology.bindings} == {
        (exchange.name, queue.name) for exchange in (lanes, others) for queue in topology.queues
    }


def test_a_generation_is_bound_by_the_patterns_of_its_consumer():
    assert QUEUES.routes(0).bindings == [Binding("main", "q", "a.#"), Binding("main", "q", "b.*")]
    assert QUEUES.routes(2).exchange_bindings == [
        ExchangeBinding("main", "q.g2", "a.#"),
        ExchangeBinding("main", "q.g2", "b.*"),
    ]


def test_the_work_queue_of_partitions_gets_no_messages_of_the_main_exchange():
    topology = BASE.topology(main_exchange="main", dlx_exchange="dlx")
    assert topology.bindings == [Binding("dlx", "q.dead", "q")]


def test_a_queue_and_its_partitions_are_known_by_name():
    assert is_queue_or_partition("q", "q")
    assert is_queue_or_partition("q.g12.3", "q")
    for other in ("q.dead", "q.g1", "q.g1.x", "qq.g1.1", "q.retry.1s", None):
        assert not is_queue_or_partition(other, "q")


def test_a_marker_is_known_by_its_header_and_has_no_body():
    marker = drain_marker("q.g1.0")
    assert is_drain_marker(marker)
    assert (marker.exchange, marker.routing_key, marker.body) == ("", "q.g1.0", b"")
    assert not is_drain_marker(WireMessage("", "q.g1.0", b"", type=marker.type))
