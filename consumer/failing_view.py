"""
Failing messages, printed for people: in groups, and one by one.
"""

from collections.abc import Sequence
from datetime import timedelta

from consumer.storage.failing_reads import FailingGroup, FailingMessage
from outbox.cli import console as commands
from outbox.cli.dead_letter_view import age

_TITLE = "failing, and waiting for the next attempt"


def show_groups(groups: Sequence[FailingGroup]) -> None:
    """Print a line for each type, class and place; nothing if no message fails."""
    if groups:
        commands.show_lines(
            _TITLE,
            ("type", "error", "place", "messages", "first failure", "last failure", "next due"),
            [
                (
                    each.type,
                    each.error_class,
                    each.error_place,
                    each.messages,
                    age(each.first_failure),
                    age(each.last_failure),
                    "overdue" if each.next_due is None else age(each.next_due),
                )
                for each in groups
            ],
        )


def show_messages(messages: Sequence[FailingMessage]) -> None:
    """Print a line for each message."""
    commands.show_lines(
        _TITLE,
        (
            "message id",
            "type",
            "attempts",
            "error",
            "place",
            "first failure",
            "last failure",
            "due",
        ),
        [
            (
                each.message_id,
                each.type,
                each.attempts,
                each.error_class,
                each.error_place,
                age(each.first_failure),
                age(each.last_failure),
                "overdue" if each.due < timedelta(0) else age(each.due),
            )
            for each in messages
        ],
    )
