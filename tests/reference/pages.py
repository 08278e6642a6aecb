"""
The generated sections of the reference pages.

A section is the text between `<!-- begin NAME -->` and `<!-- end -->`; everything around it is
written by hand.
"""

import re
from collections.abc import Callable
from pathlib import Path

from tests.reference import alerts, commands, errors, log_events, metrics, public_api, settings
from tests.reference.source import REPOSITORY

COMMAND = "python -m tests.reference"
DOCS = REPOSITORY / "docs"
PAGES = [*sorted((DOCS / "reference").glob("*.md")), DOCS / "how-to" / "monitor.md"]
"""The pages that may have sections."""

SECTIONS: dict[str, Callable[[], str]] = {
    "settings-shared": settings.shared,
    "settings-relay": settings.relay,
    "settings-consumer": settings.consumer,
    "metrics-relay": metrics.relay,
    "metrics-consumer": metrics.consumer,
    "metrics-supervisor": metrics.supervisor,
    "alerts": alerts.table,
    "log-events": log_events.table,
    "exit-codes": commands.exit_codes,
    "commands-relay": commands.relay,
    "commands-consumer": commands.consumer,
    "exception-tree": errors.tree,
    "exceptions": errors.exceptions,
    "outcomes": errors.publish_outcomes,
    "names-outbox": public_api.names_of_outbox,
    "names-consumer": public_api.names_of_consumer,
    "names-outbox-testing": public_api.names_of_outbox_testing,
    "names-consumer-testing": public_api.names_of_consumer_testing,
    "options": public_api.options,
    "tables": public_api.columns,
    "headers": public_api.headers,
}

_SECTION = re.compile(r"<!-- begin ([a-z-]+) -->\n.*?<!-- end -->", re.DOTALL)


def rendered(text: str) -> str:
    """The page *text* with each of its sections as it should be."""
    return _SECTION.sub(lambda found: _section(found[1]), text)


def sections_in(text: str) -> list[str]:
    """The names of the sections of the page *text*."""
    return _SECTION.findall(text)


def stale() -> list[Path]:
    """The pages with a section that is not as it should be."""
    return [page for page in PAGES if page.read_text() != rendered(page.read_text())]


def _section(name: str) -> str:
    return f"<!-- begin {name} -->\n\n{SECTIONS[name]()}\n\n<!-- end -->"
