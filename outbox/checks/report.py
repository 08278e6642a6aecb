"""
All results of one check: every problem that it finds, and not only the first one.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from outbox.checks.result import Check, CheckResult, Status
from outbox.database.errors import translated
from outbox.errors import ConfigurationError, Unavailable

Result = TypeVar("Result")


class Report:
    """Collects the results of several steps, each of which runs though another one failed."""

    def __init__(self) -> None:
        self._results: list[CheckResult] = []
        self._first: ConfigurationError | Unavailable | None = None

    def add(self, *results: CheckResult) -> None:
        """Add *results*; an error among them is one of the configuration."""
        for result in results:
            if result.status is Status.ERROR:
                self._found(result.check, ConfigurationError(result.text))
            elif result not in self._results:
                self._results.append(result)

    def unavailable(self, result: CheckResult) -> None:
        """Add *result*, an error that passes without a change of settings."""
        self._found(result.check, Unavailable(result.text))

    def warn(self, check: Check, texts: Iterable[str]) -> None:
        """Add a warning of *check* for each of *texts*."""
        self.add(*(CheckResult.warning(check, text) for text in texts))

    def step(self, check: Check, work: Callable[[], Result]) -> Result | None:
        """Return the result of *work*, or add its error and return None."""
        try:
            return work()
        except (ConfigurationError, Unavailable) as error:
            self._found(check, error)
            return None

    async def async_step(self, check: Check, work: Awaitable[Result]) -> Result | None:
        """Return the result of *work*, or add its error and return None."""
        try:
            return await work
        except (ConfigurationError, Unavailable) as error:
            self._found(check, error)
        except DBAPIError as error:
            self._found(check, translated(error))
        return None

    def has_error(self, check: Check) -> bool:
        """Whether an error of *check* was found."""
        return any(each.check is check and each.status is Status.ERROR for each in self._results)

    @property
    def results(self) -> list[CheckResult]:
        """All results, in the order in which they were found."""
        return list(self._results)

    @property
    def failure(self) -> ConfigurationError | Unavailable | None:
        """The first error, with which a start would end too; None if there is none."""
        return self._first

    def _found(self, check: Check, error: ConfigurationError | Unavailable) -> None:
        self._first = self._first or error
        # Two steps may find the same problem.
        known = {each.text for each in self._results if each.status is Status.ERROR}
        for line in dict.fromkeys(str(error).splitlines()):
            if line not in known:
                self._results.append(CheckResult.error(check, line))
