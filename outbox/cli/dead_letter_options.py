"""
The options that the commands on dead letters share, and how a command gets them.
"""

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from outbox.cli import console as commands
from outbox.dead_letters.selection import Selection, selection
from outbox.errors import ConfigurationError

Target = Annotated[
    str, typer.Argument(metavar="MODULE:NAME", help="The consumer, such as myapp.etl:etl.")
]
Id = Annotated[str, typer.Argument(metavar="ID", help="The letter, as `list` shows it.")]
Positions = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="As --id, for as many as you like.")
]
Because = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Why; kept in the table audit_log.")
]
By = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who; the user and the host unless given.")
]
Everything = Annotated[bool, typer.Option("--all", help="All letters, without any filter.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count by type and reason, and change nothing.")
]
Completed = Annotated[
    bool,
    typer.Option("--completed", help="Have completed messages take effect once more."),
]
NewBody = Annotated[
    Path | None,
    typer.Option("--body", metavar="FILE", help="Replace the body of the one letter by this."),
]
ShowBody = Annotated[bool, typer.Option("--body", help="Show body and keys; needs --because.")]
Bodies = Annotated[bool, typer.Option("--bodies", help="Add bodies and keys; needs --because.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="A new file, or - for the output.")]


def _filters(
    *,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="This letter; repeatable.")
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Letters of this type.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="CODE", help="Given up for this reason.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Given up longer ago: 90s, 15m, 2h, 7d.")
    ] = None,
    newer_than: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Given up within: 90s, 15m, 2h, 7d.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="With this idempotency key or ordering key."),
    ] = None,
    limit: Annotated[
        str | None, typer.Option(metavar="N", help="At most so many, the oldest first.")
    ] = None,
) -> Selection:
    named = {"type": type_, "reason": reason, "key": key, "limit": limit}
    return selection({"ids": ids, "older_than": older_than, "newer_than": newer_than, **named})


def with_filters(command: Callable[..., None], *, without: Collection[str]) -> Callable[..., None]:
    """
    *command* as Typer shall see it: the filters in place of its parameter `selected`, and none of
    the parameters *without* which it is called.

    Bad options end the process with status 2.
    """
    own = dict(inspect.signature(command).parameters)
    filters = inspect.signature(_filters).parameters if own.pop("selected", None) else {}

    @wraps(command)
    def called(**given: Any) -> None:
        try:
            if filters:
                options = {name: given.pop(name) for name in filters}
                options["ids"] = [*(options["ids"] or ()), *(given.pop("positions", None) or ())]
                given["selected"] = _filters(**options)
            command(**given)
        except ConfigurationError as error:
            commands.fail(error)

    parameters = [one for one in (*own.values(), *filters.values()) if one.name not in without]
    parameters = [_required(one) if one.name == "target" else one for one in parameters]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def _required(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(default=inspect.Parameter.empty)
