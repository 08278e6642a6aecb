"""
All sections of the monitor, those that matter most first: pure.
"""

from collections.abc import Iterator, Sequence

from outbox.cli.console import shown
from relay.monitor.alerts import Alert, Severity
from relay.monitor.broker_sections import broker_sections, queue_sections, top_queues
from relay.monitor.lag import Stage
from relay.monitor.section import Column, Section, duration_text, rate_text
from relay.monitor.snapshot import ProcessState, Snapshot

_STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "yellow"}


def sections(found: Snapshot, raised: Sequence[Alert]) -> Iterator[Section]:
    """Return the sections of a snapshot."""
    yield _alerts(raised)
    yield from _overview(found)
    yield _lag(found.lag)
    yield _processes(found.processes)
    yield from queue_sections(found)
    if found.broker is not None:
        yield from broker_sections(found.broker)
        yield top_queues(found)
    yield _dead_letters(found)
    yield _failing(found)


def _alerts(raised: Sequence[Alert]) -> Section:
    return Section(
        "alerts" if raised else "no alert",
        [
            Column("alert", is_text=True, whole=True),
            Column("severity", 100, is_text=True, whole=True),
            Column("of", 80, is_text=True),
            Column("text", is_text=True, folds=True),
        ],
        [(each.name, each.severity.value, each.subject, each.text) for each in raised],
        [_STYLES[each.severity] for each in raised],
    )


def _overview(found: Snapshot) -> Iterator[Section]:
    if (rates := found.rates) is not None:
        yield Section(
            "in a second, over the last minute",
            [Column(name) for name in ("recorded ≈", "published", "handled", "failed")],
            [
                tuple(
                    map(rate_text, (rates.recorded, rates.published, rates.handled, rates.failed))
                )
            ],
        )
    if (backlog := found.outbox) is None:
        return
    columns = [
        Column("state", is_text=True),
        Column("type", is_text=True),
        Column("reason", 80, is_text=True),
        Column("rows"),
        Column("attempts", 100),
        Column("oldest"),
        Column("next attempt in", 100),
    ]
    yield Section(
        f"outbox: {backlog.rows:,} rows",
        columns,
        [
            (
                group.state.value,
                group.type,
                group.reason,
                f"{group.rows:,}" if group.exact else f"≥ {group.rows:,}",
                group.attempts,
                group.oldest_age,
                group.next_attempt_in,
            )
            for group in backlog.events
        ],
    )


def _lag(stages: Sequence[Stage]) -> Section:
    return Section(
        "lag over the last minute (≈ is derived)",
        [
            Column("stage", is_text=True),
            Column("events", 80),
            Column("mean"),
            Column("median"),
            Column("99 %"),
        ],
        [
            (
                each.stage,
                each.events,
                ("≈ " if each.derived and each.mean is not None else "")
                + duration_text(each.mean),
                duration_text(each.median),
                duration_text(each.p99),
            )
            for each in stages
        ],
    )


def _mean(stage: Stage) -> str:
    text = duration_text(stage.mean)
    return f"≈ {text}" if stage.derived and stage.mean is not None else text


def _processes(processes: Sequence[ProcessState]) -> Section:
    def state(each: ProcessState) -> str:
        if not each.alive:
            gone = f"not seen for {shown(each.unseen)}"
            return f"{gone}, replaced" if each.replaced else gone
        return f"waits for {each.waiting_for}" if each.waiting_for else "works"

    return Section(
        "processes" if processes else "no process runs",
        [
            Column("role", 100, is_text=True),
            Column("name", is_text=True),
            Column("host", 80, is_text=True),
            Column("pid", 80),
            Column("version", 120),
            Column("uptime", 100),
            Column("per second"),
            Column("state", is_text=True),
        ],
        [
            (
                each.role,
                each.name,
                each.host,
                str(each.pid),
                each.version,
                each.uptime,
                rate_text(each.rate),
                state(each),
            )
            for each in processes
        ],
        ["" if each.alive else "yellow" for each in processes],
    )


def _dead_letters(found: Snapshot) -> Section:
    return Section(
        "dead letters" if found.dead_letters else "no dead letters",
        [
            Column("source", is_text=True),
            Column("reason", is_text=True),
            Column("letters"),
            Column("oldest"),
        ],
        [(each.source, each.reason, each.letters, each.oldest) for each in found.dead_letters],
    )


def _failing(found: Snapshot) -> Section:
    return Section(
        "failing, and waiting for another attempt" if found.failing else "no failing message",
        [
            Column("consumer", is_text=True),
            Column("type", 80, is_text=True),
            Column("error", is_text=True),
            Column("messages"),
            Column("oldest"),
        ],
        [
            (each.consumer, each.type, each.error_class, each.messages, each.oldest)
            for each in found.failing
        ],
    )
