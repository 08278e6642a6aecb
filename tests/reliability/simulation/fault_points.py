"""
The named steps of the protocols, and what strikes at them.

Nothing of this is compiled into the product. Each step of its protocols is something that it asks
of a server, so whoever stands between them can name it:

    <role>.<step>.sent         it has not reached the server
    <role>.<step>.answered     the server has done it, and nobody has been told

A process that is killed, or cut from the server, at the first has not taken the step; at the
second it has, and does not know.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Blow(StrEnum):
    """What happens at a point."""

    KILL = "kill"
    """The process is gone."""
    CUT = "cut"
    """Its connection to that server is lost."""


@dataclass(slots=True)
class Strike:
    """A *blow* when *point* is passed, after it was passed *skip* times more."""

    point: str
    blow: Blow
    skip: int = 0


class Points:
    """
    What was passed in a run.

    Args:
        told: Called with the process and the point, each time.

    """

    def __init__(self, told: Callable[[str, str], None]) -> None:
        self.passed: Counter[str] = Counter()
        self.struck: Counter[Blow] = Counter()
        self._strikes: list[Strike] = []
        self._told = told

    def arm(self, *strikes: Strike) -> None:
        """Have these strike, each of them once."""
        self._strikes += strikes

    def disarm(self) -> None:
        """Nothing strikes any more."""
        self._strikes.clear()

    @property
    def armed(self) -> list[Strike]:
        """Those that have not struck yet."""
        return list(self._strikes)

    def passing(self, role: str, process: str, step: str) -> Blow | None:
        """What strikes *process*, which is one of its *role*, at this *step*."""
        point = f"{role}.{step}"
        self.passed[point] += 1
        self._told(process, point)
        for strike in self._strikes:
            if strike.point == point:
                if strike.skip:
                    strike.skip -= 1
                    return None
                self._strikes.remove(strike)
                self.struck[strike.blow] += 1
                self._told(process, strike.blow.value)
                return strike.blow
        return None
