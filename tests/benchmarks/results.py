"""
Figures, their goals, and their output as JSON, Markdown and a table; pure.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table

_PERCENT = 100

DIGITS = 6
"""Digits behind the point that are kept."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure is *at least* or *at most* the *bound*."""

    sense: Literal["at least", "at most"]
    bound: float

    def __str__(self) -> str:
        return f"{'≥' if self.sense == 'at least' else '≤'} {self.bound:g}"

    def met(self, value: float) -> bool:
        """Whether *value* is good enough."""
        exact = round(value, DIGITS)  # 1.0000000000001 is not above 1
        return exact >= self.bound if self.sense == "at least" else exact <= self.bound


@dataclass(frozen=True, slots=True)
class Result:
    """
    One figure.

    Args:
        value: None if it does not apply, for the reason that *note* gives.
        goal: None for absolute values, which stand beside the ratios to explain them.
        rounds: The value of each round; the *value* is their median.

    """

    name: str
    value: float | None
    unit: str
    goal: Goal | None = None
    note: str = ""
    rounds: Sequence[float] = ()

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without goal or value."""
        if self.goal is None or self.value is None:
            return None
        return self.goal.met(self.value)

    @property
    def verdict(self) -> str:
        """Whether the goal is met, in a word."""
        if self.goal is None:
            return ""
        return {True: "yes", False: "NO", None: "not applicable"}[self.met]

    @property
    def shown(self) -> str:
        """The value as people read it."""
        return "–" if self.value is None else f"{significant(self.value)} {self.unit}".strip()

    @property
    def spread(self) -> str:
        """The least and the greatest value of a round."""
        if len(self.rounds) <= 1:
            return ""
        return f"{significant(min(self.rounds))}–{significant(max(self.rounds))}"


Conditions = Mapping[str, str]
"""Under what circumstances figures were taken: versions, cores, counts."""


def at_least(bound: float) -> Goal:
    """The goal of reaching *bound*."""
    return Goal("at least", bound)


def at_most(bound: float) -> Goal:
    """The goal of not exceeding *bound*."""
    return Goal("at most", bound)


def of_rounds(
    name: str, values: Iterable[float], unit: str, goal: Goal | None = None, note: str = ""
) -> Result:
    """The figure whose value in each round is one of *values*."""
    rounds = list(values)
    return Result(name, median(rounds), unit, goal, note, rounds)


def median(values: Iterable[float]) -> float:
    """The median of *values*, which a single disturbed run does not move."""
    return statistics.median(values)


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """
    The ratio of each round.

    The two values of a round are measured right after each other: a slow machine slows
    both.
    """
    return [ratio(a, b) for a, b in zip(over, under, strict=True)]


def ratio(over: float, under: float) -> float:
    """*over* divided by *under*; infinite, instead of an error, if a contender did nothing."""
    return over / under if under else float("inf")


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of *values* that at least *percent* of them do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // _PERCENT)  # rounded up
    return ordered[max(int(rank), 1) - 1]


def significant(value: float) -> str:
    """*value* with three significant digits, and all digits before the point."""
    hundreds, tens = 100, 10
    size = abs(value)
    if size >= hundreds:
        return f"{value:,.0f}"
    if size >= tens:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def as_json(results: Sequence[Result], conditions: Conditions) -> str:
    """*results* as JSON."""
    document = {
        "results": [_plain(result) for result in results],
        "conditions": dict(conditions),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _plain(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "value": _number(result.value),
        "unit": result.unit,
        "goal": None if result.goal is None else str(result.goal),
        "met": result.met,
        "note": result.note,
        "rounds": [_number(value) for value in result.rounds],
    }


def _number(value: float | None) -> float | None:
    """*value* for JSON, which has no infinity."""
    return None if value is None or not math.isfinite(value) else round(value, DIGITS)


def as_markdown(results: Sequence[Result], conditions: Conditions) -> str:
    """*results* as Markdown, with the conditions below."""
    lines = ["| figure | value | goal | met | min–max | |", "|---|---:|---:|---|---:|---|"]
    lines += [
        f"| {f'`{r.name}`' if r.goal else r.name} | {r.shown} | {r.goal or ''} "
        f"| {_marked(r)} | {r.spread} | {r.note} |"
        for r in results
    ]
    lines += ["", *(f"- {name}: {value}" for name, value in conditions.items())]
    return "\n".join(lines) + "\n"


def _marked(result: Result) -> str:
    return f"**{result.verdict}**" if result.met is False else result.verdict


def as_table(results: Sequence[Result]) -> Table:
    """*results* for a terminal."""
    table = Table(title=headline(results))
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("goal", justify="right", no_wrap=True)
    table.add_column("met")
    table.add_column("min–max", justify="right", no_wrap=True)
    table.add_column("note", style="dim")
    for result in results:
        colour = {True: "green", False: "bold red", None: ""}[result.met]
        verdict = f"[{colour}]{result.verdict}[/]" if colour else result.verdict
        goal = str(result.goal or "")
        table.add_row(result.name, result.shown, goal, verdict, result.spread, result.note)
    return table


def headline(results: Sequence[Result]) -> str:
    """How many goals are met."""
    judged = [result.met for result in results if result.met is not None]
    return f"{sum(judged)} of {len(judged)} goals met"
