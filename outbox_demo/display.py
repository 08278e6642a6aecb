"""
The output of a run: three bars on a terminal, one line per phase elsewhere, a table at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from outbox_demo.audit import Audit
from outbox_demo.events_file import Expected
from outbox_demo.progress import Counts


class Display:
    """Shows the progress of a run on *console*."""

    def __init__(self, console: Console, expected: Expected) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._committed = self._progress.add_task("committed", total=expected.events)
        self._published = self._progress.add_task("published", total=expected.events)
        self._applied = self._progress.add_task("applied", total=expected.effects)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def print(self, text: str) -> None:
        """Print *text*, a line about a phase or an event of the run."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, counts: Counts) -> None:
        """Update the bars."""
        self._progress.update(self._committed, completed=counts.committed)
        self._progress.update(self._published, completed=counts.published)
        self._progress.update(self._applied, completed=counts.applied)


@dataclass(frozen=True, slots=True)
class Result:
    """
    The result of a run.

    Args:
        duplicates: Duplicates that the consumers have skipped, as far as their metrics were read
            before a kill.
        killed: Processes killed and started again.
        took: Time until all events were applied.
        in_time: Whether the run reached its end before the deadline.

    """

    audit: Audit
    counts: Counts
    duplicates: int
    killed: int
    took: timedelta
    exit_codes: Mapping[str, int]
    in_time: bool

    @property
    def passed(self) -> bool:
        """Whether the audit passed in time, and all processes ended cleanly."""
        return self.audit.passed and self.in_time and not any(self.exit_codes.values())


def final_table(result: Result) -> Table:
    """The counts of a run as a table."""
    audit, seconds = result.audit, result.took.total_seconds()
    table = Table(title=_title(result), caption=_caption(result), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("committed", f"{audit.committed:,}")
    table.add_row("rolled back on purpose", f"{audit.rolled_back:,}")
    table.add_row("published", f"{result.counts.published:,}")
    table.add_row("applied", f"{audit.applied:,}")
    if audit.repeated:
        table.add_row("repeat the idempotency key of another event", f"{audit.repeated:,}")
    table.add_row("processes killed and started again", f"{result.killed}")
    table.add_row("duplicates skipped (at least)", f"{result.duplicates:,}")
    table.add_section()
    table.add_row("lost" if result.in_time else "not yet applied", _should_be_zero(audit.lost))
    table.add_row("applied twice", _should_be_zero(audit.applied_twice))
    table.add_row("applied although rolled back", _should_be_zero(audit.uncommitted))
    table.add_row("changed on the way", _should_be_zero(audit.changed))
    if audit.inconsistent:
        table.add_row(
            "in the database or in the producer's history, not in both",
            _should_be_zero(audit.inconsistent),
        )
    table.add_section()
    table.add_row("events per second", f"{audit.applied / seconds:,.0f}")
    table.add_row("seconds", f"{seconds:.1f}" if result.in_time else f"{seconds:.1f}, not done")
    table.add_row("exit codes", _codes(result.exit_codes))
    return table


def _should_be_zero(count: int) -> str:
    return f"[bold red]{count:,}[/]" if count else "[bold green]0[/]"


def _codes(codes: Mapping[str, int]) -> str:
    if not any(codes.values()):
        return f"0 from all {len(codes)}"
    return ", ".join(f"{name} {code}" for name, code in codes.items())


def _title(result: Result) -> str:
    facts = f"{result.audit.committed:,} events, {result.killed} processes killed"
    if result.passed:
        return f"{facts}: passed"
    return f"{facts}: {'failed' if result.in_time else 'deadline passed'}"


def _caption(result: Result) -> str:
    if result.passed:
        return "Every committed event was applied exactly once."
    if not result.in_time:
        return "Events that are not yet applied are not lost: run again with a longer --deadline."
    return "Run the demo again with --keep, and report this with the logs."
