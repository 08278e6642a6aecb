"""
The report of a long run, as JSON and as Markdown; pure functions.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.reliability.checker import Finding, Guarantees
from tests.reliability.figures import figures, lost, twice
from tests.reliability.history import Record


@dataclass(frozen=True, slots=True)
class Report:
    """
    The figures of a run.

    Args:
        conditions: Versions, machine, load, seed: everything that a figure depends on.
        unknown: Events of which their producer could not tell whether they were committed.
        wire_duplicates: Copies on the wire beyond one of each event.
        recovery_p50_seconds, recovery_p99_seconds: From the end of a fault to the first
            effect of an event that was committed after it, where no other fault came in between.
        longest_pause_seconds: The longest time without any effect, whatever struck meanwhile.
        drained_after_seconds: From the end of the last fault until nothing waited.

    """

    conditions: Mapping[str, str]
    events: int
    unknown: int
    effects: int
    given_up: int
    sent: int
    faults: Mapping[str, int]
    lost: int
    applied_twice: int
    wire_duplicates: int
    recovery_p50_seconds: float | None
    recovery_p99_seconds: float | None
    longest_pause_seconds: float | None
    drained_after_seconds: float | None
    findings: Sequence[str]


def report(
    history: Sequence[Record],
    guarantees: Guarantees,
    findings: Iterable[Finding],
    conditions: Mapping[str, str],
) -> Report:
    """The report on *history*."""
    summary = figures(history)
    return Report(
        conditions=dict(conditions),
        events=summary.events,
        unknown=summary.unknown,
        effects=summary.applied,
        given_up=summary.given_up,
        sent=summary.sent,
        faults=dict(sorted(summary.faults.items())),
        lost=sum(map(len, lost(history, guarantees.consumers).values())),
        applied_twice=sum(map(len, twice(history).values())),
        wire_duplicates=summary.duplicates,
        recovery_p50_seconds=percentile(summary.recoveries, 0.5),
        recovery_p99_seconds=percentile(summary.recoveries, 0.99),
        longest_pause_seconds=summary.longest_pause,
        drained_after_seconds=summary.drained_after,
        findings=[f"{finding.rule}: {finding.text}" for finding in findings],
    )


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """The smallest value that a *share* of all values does not exceed; None without values."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def write(summary: Report, directory: Path) -> None:
    """Write `report.json` and `report.md` into *directory*."""
    (directory / "report.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    (directory / "report.md").write_text(markdown(summary))


def markdown(summary: Report) -> str:
    """The report as a page."""
    duplicates = summary.wire_duplicates / max(1, summary.sent)
    rows = {
        "events committed": f"{summary.events:,}",
        "outcome of the COMMIT unknown to the producer": f"{summary.unknown:,}",
        "effects": f"{summary.effects:,}",
        "dead-lettered on purpose": f"{summary.given_up:,}",
        "faults": f"{sum(summary.faults.values()):,}",
        "lost": f"{summary.lost:,}",
        "applied twice": f"{summary.applied_twice:,}",
        "copies on the wire": f"{summary.wire_duplicates:,} ({duplicates:.2%} of what was sent)",
        "recovery, median": _seconds(summary.recovery_p50_seconds),
        "recovery, 99 of 100": _seconds(summary.recovery_p99_seconds),
        "longest time without an effect": _seconds(summary.longest_pause_seconds),
        "from the end of the last fault to an empty backlog": _seconds(
            summary.drained_after_seconds
        ),
        "findings": f"{len(summary.findings):,}",
    }
    findings = "\n".join(f"- {finding}" for finding in summary.findings) or "None."
    return "\n\n".join(
        [
            "# Soak",
            _table("", "", rows),
            "## Findings",
            findings,
            "## Faults",
            _table("fault", "times", summary.faults),
            "## Conditions",
            _table("", "", summary.conditions),
            "",
        ]
    )


def _table(left: str, right: str, rows: Mapping[str, object]) -> str:
    lines = [f"| {left} | {right} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"
