"""
A consumer with leased handlers only, so that it can take one message at a time.
"""

from consumer import Consumer, OnLeaseExpired
from tests.support.behaviours import LEASE, leased_repeat, leased_stop

consumer = Consumer("leasing", bindings=["test.leased.#"])
consumer.on_leased("test.leased.repeat", lease=LEASE)(leased_repeat)
consumer.on_leased("test.leased.stop", lease=LEASE, on_expired=OnLeaseExpired.DEAD_LETTER)(
    leased_stop
)
