"""
What `check` says of priorities in the broker.
"""

import pytest

from outbox.checks import broker, versions
from outbox.checks.result import Check, Status
from outbox.transports.inspection import BrokerFacts


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((3, 10, 8), "in the order of publishing"),
        ((3, 13, 7), "in the order of publishing"),
        ((4, 0, 5), "two urgent events for each other one"),
        ((4, 2, 1), "two urgent events for each other one"),
        ((4, 3, 0), "urgent events first, then normal ones, then low ones"),
        ((5,), "urgent events first, then normal ones, then low ones"),
    ],
)
def test_a_check_says_what_a_version_of_rabbitmq_makes_of_priorities(version, expected):
    facts = BrokerFacts(product="RabbitMQ", version=versions.shown(version))

    found = broker.of_version(facts)[-1]

    assert (found.check, found.status) == (Check.BROKER_PRIORITIES, Status.OK)
    assert expected in found.text
