"""
The stages of an event's way that relay and consumer measure.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from consumer.dispatch.settlement import Settlement, Step
from consumer.execution.delivery_batch import QueuedDelivery
from consumer.lag_report import MOST_PENDING, SAMPLE
from consumer.lag_report import LagReport as ConsumerLag
from consumer.verdict import DONE, DUPLICATE, FILTERED
from outbox.transports.delivery import Delivery
from outbox.wire.headers import Headers
from relay.lag_report import LagReport as RelayLag
from tests.support.builders import an_event, on_the_wire

NOW = datetime(2026, 3, 4, 12, 0, 10, 250_000, tzinfo=UTC)
RECORDED = NOW.replace(microsecond=0)


def test_a_batch_is_claimed_at_one_moment_and_its_last_confirm_stands_for_all():
    lag = RelayLag(CollectorRegistry())

    lag.confirmed([2.0, 0.6, 0.1], after_claim=0.5)

    found = {name: each.distribution for name, each in lag.histograms.items()}
    assert {name: each.count for name, each in found.items()} == {
        "commit_to_claim": 3,
        "claim_to_confirm": 3,
        "commit_to_confirm": 3,
    }
    assert found["commit_to_confirm"].total == pytest.approx(2.7)
    assert found["claim_to_confirm"].total == pytest.approx(1.5)
    # Of two clocks the last one seems to be claimed before its insert, which counts as 0.
    assert found["commit_to_claim"].total == pytest.approx(1.6)


def to_delivery(headers: Headers, waited: float = 0.05) -> float | None:
    """The seconds from the record to the delivery, as the report measures them."""
    lag = ConsumerLag(CollectorRegistry())
    lag.pending.append((NOW.timestamp(), [(headers, waited)]))
    return lag.histograms["record_to_delivery"].distribution.mean


def test_an_event_that_occurred_in_the_second_of_its_record_was_recorded_when_it_occurred():
    headers = Headers(recorded_at=RECORDED, occurred_at=NOW - timedelta(seconds=0.15))

    assert to_delivery(headers) == pytest.approx(0.1)


@pytest.mark.parametrize("occurred", [None, RECORDED - timedelta(days=1), NOW + timedelta(days=1)])
def test_any_other_event_was_recorded_in_the_middle_of_the_second(occurred):
    recorded = RECORDED - timedelta(seconds=1)

    found = to_delivery(Headers(recorded_at=recorded, occurred_at=occurred))

    assert found == pytest.approx(0.7)


@pytest.mark.parametrize(
    "waited_on_purpose",
    [
        {"failed_attempts": 1},
        {"requeues": 1},
        {"not_before": NOW},
        {"exchange": "e"},
        {"recorded_at": None},
    ],
)
def test_a_copy_counts_only_from_its_delivery_on(waited_on_purpose):
    headers = Headers(recorded_at=RECORDED)._replace(**waited_on_purpose)

    assert to_delivery(headers) is None


def a_settlement() -> tuple[Settlement, ConsumerLag]:
    lag = ConsumerLag(CollectorRegistry())
    settlement = object.__new__(Settlement)
    settlement._telemetry = cast("Any", SimpleNamespace(lag=lag))
    return settlement, lag


def a_step(count: int, verdict: Any = DONE) -> Step:
    since = asyncio.get_running_loop().time() - 0.2
    message = on_the_wire(an_event(), exchange="e")
    deliveries = (Delivery(message, tag, redelivered=False) for tag in range(count))
    return Step([(QueuedDelivery(0, each.tag, since, each), verdict) for each in deliveries])


async def test_the_wait_in_the_process_counts():
    settlement, lag = a_settlement()

    settlement._report_lag(a_step(3))

    effect = lag.histograms["delivery_to_effect"].distribution
    assert effect.count == 3
    assert effect.mean == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize("verdict", [DUPLICATE, FILTERED])
async def test_a_message_without_an_effect_does_not_count(verdict):
    settlement, lag = a_settlement()

    settlement._report_lag(a_step(3, verdict))

    assert not lag.pending


async def test_a_busy_consumer_measures_a_sample_of_each_second():
    settlement, lag = a_settlement()

    for _ in range(3):
        settlement._report_lag(a_step(SAMPLE - 1))
    assert lag.histograms["delivery_to_effect"].distribution.count == SAMPLE

    lag.until = time.monotonic()
    settlement._report_lag(a_step(7))
    assert lag.histograms["delivery_to_effect"].distribution.count == SAMPLE + 7


async def test_times_are_observed_before_many_are_pending():
    settlement, lag = a_settlement()

    for _ in range(MOST_PENDING):
        settlement._report_lag(a_step(1))

    assert not lag.pending
