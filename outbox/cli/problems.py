"""
All problems that a `check` finds, instead of the first one.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from outbox.errors import ConfigurationError, Unavailable

Result = TypeVar("Result")


class Problems:
    """Collects the errors of several steps, each of which runs though another one failed."""

    def __init__(self) -> None:
        self._found: list[ConfigurationError | Unavailable] = []

    def step(self, work: Callable[[], object]) -> None:
        """Do *work*, and keep its error."""
        try:
            work()
        except (ConfigurationError, Unavailable) as error:
            self._found.append(error)

    async def async_step(self, work: Awaitable[Result]) -> Result | None:
        """Return the result of *work*, or keep its error and return None."""
        try:
            return await work
        except (ConfigurationError, Unavailable) as error:
            self._found.append(error)
            return None

    def unless_found(self, result: Result | None) -> Result:
        """
        Return the *result* of a step, unless a problem was found.

        Then raise one error with a line for each problem; Unavailable if the first one is, with
        which a start would end too.
        """
        if not self._found and result is not None:
            return result
        first = self._found[0]
        # Two steps may find the same problem.
        lines = "\n".join(dict.fromkeys("\n".join(map(str, self._found)).splitlines()))
        if isinstance(first, Unavailable):
            raise Unavailable(lines, refused=first.refused)
        raise ConfigurationError(lines)
