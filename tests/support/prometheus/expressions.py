"""
The names of metrics and labels that an expression of PromQL uses.

promtool says whether an expression can be parsed, and not whether a metric exists. This reads only
the tokens, which suffices for that.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<duration>\[[^\]]*\])
    | (?P<number>\d[\d.]*(?:[a-z]+)?)
    | (?P<name>[A-Za-z_:][A-Za-z0-9_:]*)
    | (?P<mark>[^\sA-Za-z0-9_:])
    """,
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = _GROUPING | {"and", "or", "unless", "offset", "bool", "inf", "nan"}
_AFTER_FUNCTIONS = {"(", "by", "without"}


@dataclass(frozen=True, slots=True)
class Uses:
    """
    What an expression uses.

    Args:
        selected: The labels in the braces of each metric, by its name; of several selectors all.
        grouped: The labels by which results are grouped or matched.

    """

    selected: dict[str, set[str]]
    grouped: set[str]

    @property
    def names(self) -> set[str]:
        """The names of the metrics."""
        return set(self.selected)


def uses(expression: str) -> Uses:
    """What *expression* uses; it has to be one that promtool accepts."""
    tokens = [
        (found.lastgroup or "", found.group())
        for found in _TOKEN.finditer(expression)
        if found.lastgroup not in {"duration", "number"}
    ]
    found = Uses({}, set())
    metric = ""
    rest = iter(enumerate(tokens))
    for position, (kind, token) in rest:
        following = tokens[position + 1][1] if position + 1 < len(tokens) else ""
        if token == "{":
            found.selected[metric] |= _labels(rest, until="}")
        elif token in _GROUPING and following == "(":
            found.grouped.update(_labels(rest, until=")"))
        elif kind == "name" and token not in _WORDS and following not in _AFTER_FUNCTIONS:
            metric = token
            found.selected.setdefault(metric, set())
    return found


def _labels(tokens: Iterator[tuple[int, tuple[str, str]]], *, until: str) -> set[str]:
    """The names up to the token *until*."""
    labels = set()
    for _, (kind, token) in tokens:
        if token == until:
            break
        if kind == "name":
            labels.add(token)
    return labels
