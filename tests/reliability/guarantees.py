"""
The guarantees that every run has to keep, and the error that names the broken ones.
"""

from collections.abc import Sequence

from tests.reliability.checker import Finding, Guarantees
from tests.reliability.outcomes import RETRIES_EXHAUSTED
from tests.reliability.roles import ORDERED

PROGRESS_SECONDS = 30.0


class FindingsError(AssertionError):
    """A run has broken a guarantee."""

    def __init__(self, findings: Sequence[Finding], summary: str) -> None:
        lines = "\n".join(f"{finding.rule}: {finding.text}" for finding in findings)
        super().__init__(f"{len(findings)} findings\n{lines}\n{summary}")
        self.findings = list(findings)


def default_guarantees(
    *consumers: str,
    duplicates: int | None = None,
    progress_seconds: float = PROGRESS_SECONDS,
) -> Guarantees:
    """The guarantees of every run, with a bound of *duplicates* if given."""
    return Guarantees(
        consumers=frozenset(consumers),
        ordered=frozenset(consumers) & {ORDERED},
        reasons=frozenset({RETRIES_EXHAUSTED}),
        duplicates=duplicates,
        progress_seconds=progress_seconds,
    )
