"""
The consumer of `behaviours` in a process that only its environment can tell to wait for less long.
"""

from tests.support import intervals
from tests.support.behaviours import consumer

__all__ = ["consumer"]

intervals.shorten()
