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


class FaultAction(StrEnum):
    """What happens at a point."""

    KILL = "kill"
    """The process is gone."""
    CUT = "cut"
    """Its connection to that server is lost."""


@dataclass(slots=True)
class PlannedFault:
    """A *action* when *point* is passed, after it was passed *skip* times more."""

    point: str
    action: FaultAction
    skip: int = 0


class FaultPoints:
    """
    What was passed in a run.

    Args:
        told: Called with the process and the point, each time.

    """

    def __init__(self, told: Callable[[str, str], None]) -> None:
        self.passed: Counter[str] = Counter()
        self.injected: Counter[FaultAction] = Counter()
        self._faults: list[PlannedFault] = []
        self._told = told

    def arm(self, *faults: PlannedFault) -> None:
        """Have these strike, each of them once."""
        self._faults += faults

    def disarm(self) -> None:
        """Nothing strikes any more."""
        self._faults.clear()

    @property
    def armed(self) -> list[PlannedFault]:
        """Those that have not struck yet."""
        return list(self._faults)

    def passing(self, role: str, process: str, step: str) -> FaultAction | None:
        """What strikes *process*, which is one of its *role*, at this *step*."""
        point = f"{role}.{step}"
        self.passed[point] += 1
        self._told(process, point)
        for fault in self._faults:
            if fault.point == point:
                if fault.skip:
                    fault.skip -= 1
                    return None
                self._faults.remove(fault)
                self.injected[fault.action] += 1
                self._told(process, fault.action.value)
                return fault.action
        return None
