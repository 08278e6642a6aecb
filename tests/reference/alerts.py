"""
The table of alerts, from the rules for Prometheus.
"""

import re
from pathlib import PurePosixPath

import yaml

from tests.reference import markdown
from tests.reference.markdown import code
from tests.reference.source import REPOSITORY

RULES = REPOSITORY / "deploy" / "prometheus" / "rules.yml"

_HEADING = re.compile(r"^#{2,4} (.+)$", re.MULTILINE)


def table() -> str:
    """The alerts of each group, in the order of the file."""
    heads = ["alert", "severity", "expression", "meaning", "what to do"]
    return markdown.table(
        heads,
        [
            [
                code(rule["alert"]),
                rule["labels"]["severity"],
                _expression(rule),
                rule["annotations"]["description"],
                _link(rule["annotations"]["runbook_url"]),
            ]
            for group in yaml.safe_load(RULES.read_text())["groups"]
            for rule in group["rules"]
            if "alert" in rule
        ],
    )


def anchors(page: str) -> dict[str, str]:
    """The headings of *page*, by their anchor."""
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-"): heading
        for heading in _HEADING.findall(page)
    }


def _expression(rule: dict[str, str]) -> str:
    expression = code(" ".join(rule["expr"].split()))
    return f"{expression} for {rule['for']}" if "for" in rule else expression


def _link(runbook: str) -> str:
    """A link to the section *runbook* from a page beside its page."""
    path, _, anchor = runbook.partition("#")
    heading = anchors((REPOSITORY / path).read_text())[anchor]
    return f"[{heading}]({PurePosixPath(path).name}#{anchor})"
