"""
Shorter intervals of the product in the processes of a test, which would only wait for them.

The lengths themselves are asserted in tests/unit; these tests prove the effect at the end of one.
"""

import os
from collections.abc import Callable
from datetime import timedelta

from consumer.dispatch import suspects
from outbox.runtime.schema_monitor import SchemaMonitor

VARIABLE = "TESTS_SHORTEN"
VERIFY_SECONDS = 0.2
LAST_HOLD_SECONDS = 1.5


def _verify_often() -> None:
    defaults = SchemaMonitor.__init__.__kwdefaults__
    assert defaults is not None
    assert "every" in defaults
    defaults["every"] = timedelta(seconds=VERIFY_SECONDS)


def _hold_suspects_for_a_moment() -> None:
    assert suspects._LAST_SECONDS > LAST_HOLD_SECONDS
    suspects._LAST_SECONDS = LAST_HOLD_SECONDS


INTERVALS: dict[str, Callable[[], None]] = {
    "schema": _verify_often,
    "suspects": _hold_suspects_for_a_moment,
}


def shorten() -> None:
    """Shorten the interval that the environment names, if it names one."""
    name = os.environ.get(VARIABLE)
    if name is not None:
        INTERVALS[name]()
