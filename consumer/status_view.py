"""
The status of a consumer, printed for people.
"""

from collections.abc import Iterable
from datetime import timedelta

from rich.console import Console

from consumer.failing_view import show_groups
from consumer.status import QueueState, Status
from outbox.cli import console as commands
from outbox.cli import dead_letter_view


def show(console: Console, status: Status) -> None:
    """Print *status* for people."""
    commands.show("processed", {"in all": status.processed, **status.by_status})
    commands.show_lines(
        "completed in the last 24 hours",
        ("type", "messages", "mean seconds"),
        [
            (name, each.completed, _seconds(each.mean_duration))
            for name, each in status.last_24_hours.items()
        ],
    )
    commands.show_lines("queues", ("queue", "messages", "consumers"), _lines(status.queues))
    if status.partitions:
        commands.show_lines(
            "partitions",
            ("generation", "partition", "state", "messages", "read by"),
            [
                (each.generation, each.number, each.state, each.messages, each.owner)
                for each in status.partitions
            ],
        )
    if held := [(each.queue, each.held) for each in status.queues if each.held]:
        commands.show_lines("held, since no other queue takes them", ("queue", "messages"), held)
    show_groups(status.failing)
    dead_letter_view.reason_counts(console, status.dead_letters)
    if status.parked is not None:
        commands.show(
            "parked", {"messages": status.parked.messages, "oldest": status.parked.oldest}
        )
    commands.show(
        "dedup store",
        {
            "oldest row": status.dedup.oldest,
            "kept for": status.dedup.retention,
            "horizon": status.dedup.horizon,
        },
    )


def _lines(queues: Iterable[QueueState]) -> list[tuple[object, ...]]:
    return [
        (each.queue, "missing" if each.messages is None else each.messages, each.consumers)
        for each in queues
    ]


def _seconds(duration: timedelta | None) -> str:
    return "-" if duration is None else f"{duration.total_seconds():.3f}"
