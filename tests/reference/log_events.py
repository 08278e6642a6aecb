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
    "ids_of(message)": ("message_id", "correlation_id"),
    "ids": ("message_id", "correlation_id"),
    "failed": ("one field for each status but `success`",),
    "facts": (),  # the keywords of each call of `started`
    "described": ("error", "at"),
    "text": ("text",),
    "{} if is_of_library else {'text': str(message)}": ("text",),
}

MEANINGS = {
    "arguments_not_compared": "`of` exists, but the broker's user may not compare its arguments; "
    "see [Running](../how-to/run.md#queues-that-exist).",
    "reply_refused": "A reply to a request could not be recorded, as the database refuses its row "
    "or a setting its plain body: its caller times out.",
    "request_expired": "The deadline of a request has passed: a relay does not publish it, and a "
    "handler that answers is not called.",
    "batch_failed": "A batch was rolled back; its messages are tried alone, or in smaller ones. "
    "`place` is the innermost line of the application.",
    "batch_partly_failed": "How many events of a batch were sent, and how many were not, by "
    "status.",
    "batch_published": "All events of a batch were sent.",
    "batch_publishing_unavailable": "The installed aiormq lacks `missing`, so messages are "
    "published the slower way; see "
    "[How the relay publishes](../explanation/publishing.md#when-the-client-library-changes).",
    "background_work_failed": "Periodic work beside the main loop failed, and is tried again: the "
    "relay's `promote` or `sample`, the consumer's `purge`, `dead_queue`, `record_failures` or "
    "`sample_failing`, `partitions`, which declares them again, `dead_letters`, which counts "
    "and purges them, `verify`, a check of the "
    "database, or `register`, the row in `outbox_processes`; once for each reason.",
    "configuration_refused": "The process exits with 2; `problem` says what cannot work.",
    "consumer_started": "The consumer handles messages.",
    "copy_not_taken": "The broker does not take the copy of a message, for a retry or a requeue: "
    "`queue` is full, or the user may not write to the default exchange (`refused`), the queue "
    "is missing (`unroutable`), or no confirm came (`unknown`). The consumer repeats it, and is "
    "not ready; see [A process is not ready](../how-to/troubleshoot.md#a-process-is-not-ready).",
    "crashed": "The process exits with 1.",
    "dead_letter_bodies_expired": "Bodies of dead letters older than "
    "`MQ_DEAD_LETTER_BODY_RETENTION_DAYS` were deleted.",
    "partition_drained": "All messages of a partition that is replaced are settled; see "
    "[Partitions](../explanation/partitions.md).",
    "partitions_assigned": "This process reads so many `partitions` from now on.",
    "partitions_differ": "The consumer has `partitions`, set by `consumer scale`; the code has "
    "`declared` for a consumer without any.",
    "dead_letters_purged": "Dead letters older than `MQ_DEAD_LETTER_RETENTION_DAYS` were deleted.",
    "dedup_purged": "Rows past the retention were deleted from the dedup store.",
    "drain_deadline_passed": "The process exits with 4.",
    "event_dead_lettered": "A row of the outbox moved to `dead_letters`; `row` was its id there.",
    "frame_deliveries_unavailable": "The installed aiormq lacks `missing`, so deliveries are read "
    "the slower way; see [Tuning](../how-to/tune.md#receiving-from-rabbitmq).",
    "handler_failed": "An attempt failed. `place` is the innermost line of the application.",
    "hook_failed": "A hook of the application raised an error, took too long, or was not called.",
    "lease_lost": "A lease ended while its handler worked; the handler was cancelled.",
    "library_message": "A driver or client, or a logger in `MQ_REDACTED_LOGGERS`, logged "
    "something; the line says where, and has its text without values. Other loggers keep their "
    "texts. A line of structlog has no more than its level and the class and place of an error.",
    "message_dead_lettered": (
        "A row was written to `dead_letters`. `detail` names what could not be read: a property of"
        " the message, `body`, the id of a missing key, or fields that the model declares; `*`"
        " stands for a key of the body. It never holds a value."
    ),
    "metrics_failed": "A collector of the application raised while `/metrics` was read.",
    "message_unsupported": "A message has no handler, a newer wire format, a key that this "
    "process lacks, or a body in zstd without the extra `zstd`, and waits for a process that can "
    "handle it; `reason` is what it would be dead-lettered as, and `detail` is the id of the key. "
    "A process logs only the first one of each reason. "
    "See [Deployments](../how-to/retries-and-dead-letters.md#deployments).",
    "message_erased": "A message was acked without a call of its handler, because the key of its "
    "person was destroyed.",
    "messages_may_be_lost": "At start, a setting of a Redis by which it may lose confirmed "
    "messages, or that could not be read; see "
    "[Redis](../how-to/redis.md#settings-of-the-server).",
    "messages_settled": "How many deliveries of a type ended with a status.",
    "policies_not_checked": "No policy of the broker was checked at start, and why; see "
    "[Running](../how-to/run.md#policies).",
    "probes_listening": "The address of `/metrics`, `/livez` and `/readyz`.",
    "process_ended": "A process of `consumer run --processes` has ended by itself; another one "
    "follows after the pause. A negative `exit_code` is a signal. See "
    "[Scaling](../how-to/scale.md#processes-that-end).",
    "process_killed": "A process did not end in time after its supervisor had asked it to.",
    "process_not_started": "The system refused to start a process, as `reason` says; the "
    "supervisor tries it again.",
    "process_started": "The supervisor has started a process.",
    "process_stopped": "A process has ended as its supervisor had asked it to.",
    "processes_scaled": "The backlog asks for another number of processes; `waiting` are the "
    "messages in the work queue, and `per_second` those that all processes handled in a second.",
    "python_warning": "Python warned of code; with the text if the code is not a driver's.",
    "reconnecting": "A server is still unreachable; the next attempt comes after the pause.",
    "relay_started": "The relay publishes.",
    "relay_stands_by": "Another relay works on the SQLite file, and this one publishes nothing; "
    "see [Running](../how-to/run.md#several-processes-on-one-host).",
    "relay_took_over": "The other relay of `relay_stands_by` has ended; this one publishes.",
    "row_unreadable": "The outbox row with the id `row` is no event, and moves to `dead_letters`. "
    "`detail` names the column, and never its value.",
    "schema_accepted": "The problem of `schema_refused` is solved; the process works again.",
    "schema_is_newer": "A newer version has migrated the tables, and they serve this program as "
    "well; see [Upgrading](../how-to/upgrade.md).",
    "schema_refused": "The tables are not as the process needs them, as `problem` says; it waits "
    "and is not ready; see [Troubleshooting](../how-to/troubleshoot.md#schema-refused).",
    "row_unsettled": "The database refused to delete the row with this id; see "
    "[Troubleshooting](../how-to/troubleshoot.md#a-row-is-unsettled).",
    "server_available": "All servers can be reached again.",
    "server_still_unavailable": "A server has been unavailable for some `seconds`; every five "
    "minutes.",
    "server_unavailable": "A server became unreachable, and why; once for each reason.",
    "server_unreachable": "The process exits with 3; `problem` says which server it lacks.",
    "setting_warning": "A variable is ignored, or a server is a default; `problem` says which.",
    "signal_received": "A signal came; `draining` is true for the first one.",
    "uncaught_error": "An error ended a thread, or was raised in a callback or destructor.",
    "stop_requested": "The supervisor of the process has asked it to stop, or has ended.",
    "stopped": "The process exits with 0.",
    "supervisor_gave_up": "The supervisor stops all processes, and exits with 2 or 6: the end of "
    "one shows that they cannot work. See [Scaling](../how-to/scale.md#processes-that-end).",
    "supervisor_started": "The supervisor starts its processes.",
    "topology_declared": "The bindings were declared again, although none may have been missing.",
    "topology_problem": "A queue, exchange, binding or policy is not as it has to be; once for "
    "each problem. Level `error`: the process is not ready until it is solved. See "
    "[Running](../how-to/run.md#queues-that-change).",
    "topology_problem_solved": "A problem that was logged before is gone.",
    "topology_repaired": "A missing queue, exchange or binding was declared again.",
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
