"""
What people see of a run: three bars on a terminal, a line per phase elsewhere; a table at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from outbox_demo.reckoning import Reckoning
from outbox_demo.scoreboard import Counts
from outbox_demo.spool import Intended


class Display:
    """The way of the events, as it goes on."""

    def __init__(self, console: Console, intended: Intended) -> None:
        self._console = console
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not self._live,
        )
        self._committed = self._progress.add_task("committed", total=intended.events)
        self._published = self._progress.add_task("published", total=intended.events)
        self._applied = self._progress.add_task("applied", total=intended.effects)

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

    def say(self, text: str) -> None:
        """A phase begins, or something has happened."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, counts: Counts) -> None:
        """Move the bars."""
        self._progress.update(self._committed, completed=counts.committed)
        self._progress.update(self._published, completed=counts.published)
        self._progress.update(self._applied, completed=counts.applied)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, besides the *reckoning*; *duplicates* are those that workers told of."""

    reckoning: Reckoning
    counts: Counts
    duplicates: int
    killed: int
    took: timedelta
    exit_codes: Mapping[str, int]
    in_time: bool

    @property
    def happy(self) -> bool:
        """Whether nothing is wrong at all."""
        return self.reckoning.flawless and self.in_time and not any(self.exit_codes.values())


def final_table(ending: Ending) -> Table:
    """The table that is worth the wait."""
    facts, seconds = ending.reckoning, ending.took.total_seconds()
    table = Table(title=_headline(ending), caption=_moral(ending), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("committed", f"{facts.committed:,}")
    table.add_row("rolled back on purpose", f"{facts.rolled_back:,}")
    table.add_row("published", f"{ending.counts.published:,}")
    table.add_row("applied", f"{facts.applied:,}")
    if facts.announced_again:
        table.add_row("announced again", f"{facts.announced_again:,}")
    table.add_row("processes killed", f"{ending.killed}")
    table.add_row(
        "duplicates dropped, as far as the workers lived to tell", f"{ending.duplicates:,}"
    )
    table.add_section()
    table.add_row("lost" if ending.in_time else "not yet applied", _wanted_zero(facts.lost))
    table.add_row("applied twice", _wanted_zero(facts.applied_twice))
    table.add_row("effects of rolled back events", _wanted_zero(facts.ghosts))
    table.add_row("changed on the way", _wanted_zero(facts.changed))
    if facts.disputed:
        table.add_row("history and database disagree", _wanted_zero(facts.disputed))
    table.add_section()
    table.add_row("events per second", f"{facts.applied / seconds:,.0f}")
    table.add_row("seconds", f"{seconds:.1f}" if ending.in_time else f"{seconds:.1f}, not done")
    table.add_row("exit codes", _codes(ending.exit_codes))
    return table


def _wanted_zero(count: int) -> str:
    return f"[bold red]{count:,}[/]" if count else "[bold green]0[/]"


def _codes(codes: Mapping[str, int]) -> str:
    if not any(codes.values()):
        return f"0 from all {len(codes)}"
    return ", ".join(f"{name} {code}" for name, code in codes.items())


def _headline(ending: Ending) -> str:
    events = f"{ending.reckoning.committed:,} events"
    if ending.happy:
        return f"{events}, {ending.killed} murders, no casualties"
    if not ending.in_time:
        return f"{events}, {ending.killed} murders, and the deadline came first"
    return f"{events}, {ending.killed} murders, and something is wrong"


def _moral(ending: Ending) -> str:
    if ending.happy:
        return "What was committed has happened, once. The rest is silence."
    if not ending.in_time:
        return "What is not yet applied is not lost: give it more time with --deadline."
    return "Please report this, with the logs: run it again with --keep."
