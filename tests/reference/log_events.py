"""
The table of log events, from the calls of loggers in the source.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.reference import markdown
from tests.reference.markdown import code
from tests.reference.source import REPOSITORY, link, product_files

_LEVELS = {"debug", "info", "warning", "error", "critical", "log"}
_EXPANDED = {
    "logs.describe(error)": ("error", "at"),
    "failed": ("one field for each status but `success`",),
    "facts": (),  # the keywords of each call of `started`
    "{'error': type(error).__name__} if error else {}": ("error",),
}

MEANINGS = {
    "arguments_not_compared": "`of` exists, but the broker's user may not compare its arguments; "
    "see [Running](../how-to/run.md#queues-that-exist).",
    "batch_failed": "A batch was rolled back; each of its messages is tried alone.",
    "batch_partly_failed": "How many events of a batch were sent, and how many were not, by "
    "status.",
    "batch_published": "All events of a batch were sent.",
    "batch_publishing_unavailable": "The installed aiormq lacks `missing`, so messages are "
    "published the slower way; see "
    "[How the relay publishes](../explanation/publishing.md#when-the-client-library-changes).",
    "configuration_refused": "The process exits with 2; `problem` says what cannot work.",
    "consumer_started": "The consumer handles messages.",
    "crashed": "The process exits with 1.",
    "dedup_purged": "Rows past the retention were deleted from the dedup store.",
    "drain_deadline_passed": "The process exits with 4.",
    "frame_deliveries_unavailable": "The installed aiormq lacks `missing`, so deliveries are read "
    "the slower way; see [Tuning](../how-to/tune.md#receiving-from-rabbitmq).",
    "handler_failed": "An attempt failed.",
    "lease_lost": "A lease ended while its handler worked; the handler was cancelled.",
    "library_message": "Another library logged something; the line says where, not what.",
    "message_dead_lettered": "A row was written to `dead_letters`.",
    "messages_settled": "How many deliveries of a type ended with a status.",
    "probes_listening": "The address of `/metrics`, `/livez` and `/readyz`.",
    "reconnecting": "A server is still unreachable; the next attempt comes after the pause.",
    "relay_started": "The relay publishes.",
    "server_available": "All servers can be reached again.",
    "server_unavailable": "A server became unreachable, and why; once for each reason.",
    "server_unreachable": "The process exits with 3; `problem` says which server it lacks.",
    "signal_received": "A signal came; `draining` is true for the first one.",
    "stopped": "The process exits with 0.",
}


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One call of a logger."""

    name: str
    level: str
    fields: tuple[str, ...]
    path: str


def table() -> str:
    """Every event, with a link to the file that logs it."""
    rows = [
        [
            code(event.name),
            event.level,
            ", ".join(one if " " in one else code(one) for one in event.fields) or "–",
            MEANINGS.get(event.name, ""),
            where,
        ]
        for event, where in _merged()
    ]
    return markdown.table(["event", "level", "fields", "meaning", "logged by"], rows)


def undescribed() -> set[str]:
    """Events that this page lacks a meaning for, or has one for and the code lacks."""
    return {event.name for event in log_events()} ^ set(MEANINGS)


def log_events() -> list[LogEvent]:
    """Every event that the product logs, by name."""
    started = _keywords_of("started")
    found = [event for path in product_files() for event in _in_file(path, started)]
    return sorted(found, key=lambda event: (event.name, event.path))


def _merged() -> Iterator[tuple[LogEvent, str]]:
    """Each event once, with links to the files that log it."""
    events: dict[tuple[str, str, tuple[str, ...]], list[LogEvent]] = {}
    for event in log_events():
        events.setdefault((event.name, event.level, event.fields), []).append(event)
    for same in events.values():
        yield same[0], ", ".join(link(path) for path in sorted({one.path for one in same}))


def _in_file(path: Path, started: dict[str, tuple[str, ...]]) -> Iterator[LogEvent]:
    relative = path.relative_to(REPOSITORY)
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(
                func=ast.Attribute(attr=level), args=[*_, ast.Constant(value=str(name))]
            ):
                if level not in _LEVELS or not name.replace("_", "").isalpha():
                    continue
                fields = tuple(_fields(node.keywords, started.get(relative.parts[0], ())))
                shown = "as the library's" if level == "log" else level
                yield LogEvent(name, shown, fields, str(relative))


def _fields(keywords: list[ast.keyword], started: tuple[str, ...]) -> Iterator[str]:
    for keyword in keywords:
        if keyword.arg is not None:
            yield keyword.arg
        elif (text := ast.unparse(keyword.value)) == "facts":
            yield from started
        else:
            yield from _EXPANDED[text]


def _keywords_of(method: str) -> dict[str, tuple[str, ...]]:
    """The keywords with which each package calls *method*."""
    found: dict[str, tuple[str, ...]] = {}
    for path in product_files():
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr=attr), keywords=[_, *_]) if attr == method:
                    names = tuple(one.arg for one in node.keywords if one.arg is not None)
                    found[path.relative_to(REPOSITORY).parts[0]] = names
    return found
