"""
What counts as a lost connection to RabbitMQ, of all that its client library raises.
"""

import pytest
from aiormq.exceptions import ChannelInvalidStateError

from outbox.errors import BrokerUnavailable
from outbox.transports.rabbitmq_connection import connection_errors


@pytest.mark.parametrize(
    "error", [OSError(), TimeoutError(), ChannelInvalidStateError(), RuntimeError(), Exception()]
)
def test_errors_of_the_connection_mean_that_the_broker_is_away(error):
    with pytest.raises(BrokerUnavailable), connection_errors():
        raise error


@pytest.mark.parametrize("error", [TypeError(), KeyError(), AssertionError()])
def test_errors_of_the_code_are_raised_as_they_are(error):
    with pytest.raises(type(error)), connection_errors():
        raise error
