"""
The named steps of the protocols, at which faults are injected.

The product has no code for this. Each step of its protocols is a request to a server, so the
simulated network between them can name it:

    <role>.<step>.sent         the request has not reached the server
    <role>.<step>.answered     the server has executed it, and the process has no reply yet

A process that is killed or disconnected at `sent` has not taken the step. At `answered` it has
taken the step, and does not know that.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class FaultAction(StrEnum):
    """The kind of fault at a point."""

    KILL = "kill"
    """The process is gone."""
    CUT = "cut"
    """Its connection to that server is lost."""


@dataclass(slots=True)
class PlannedFault:
    """Inject *action* when *point* is passed, after *skip* more passes."""

    point: str
    action: FaultAction
    skip: int = 0


class FaultPoints:
    """
    Counts the points passed in a run, and injects the planned faults.

    Args:
        on_point: Called with process and point, each time a process passes one.

    """

    def __init__(self, on_point: Callable[[str, str], None]) -> None:
        self.passed: Counter[str] = Counter()
        self.injected: Counter[FaultAction] = Counter()
        self._faults: list[PlannedFault] = []
        self._on_point = on_point

    def arm(self, *faults: PlannedFault) -> None:
        """Plan these faults, each of them once."""
        self._faults += faults

    def disarm(self) -> None:
        """Drop the planned faults."""
        self._faults.clear()

    @property
    def armed(self) -> list[PlannedFault]:
        """The faults that were not injected yet."""
        return list(self._faults)

    def passing(self, role: str, process: str, step: str) -> FaultAction | None:
        """The fault for *process*, one of its *role*, at this *step*; None without any."""
        point = f"{role}.{step}"
        self.passed[point] += 1
        self._on_point(process, point)
        for fault in self._faults:
            if fault.point == point:
                if fault.skip:
                    fault.skip -= 1
                    return None
                self._faults.remove(fault)
                self.injected[fault.action] += 1
                self._on_point(process, fault.action.value)
                return fault.action
        return None
