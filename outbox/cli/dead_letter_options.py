"""
The options that the commands on dead letters share.
"""

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from outbox.cli.start import fail
from outbox.dead_letters.selection import Selection, selection
from outbox.dead_letters.store import Order
from outbox.errors import ConfigurationError

Target = Annotated[
    str, typer.Argument(metavar="MODULE:NAME", help="The consumer, such as myapp.etl:etl.")
]
Id = Annotated[
    str, typer.Argument(metavar="ID", help="The id of the dead letter, as `list` shows it.")
]
Positions = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Ids of dead letters, like --id.")
]
Because = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Why you do this; stored in the table audit_log."),
]
BecauseOfChange = Annotated[
    str | None,
    typer.Option(
        "--because",
        metavar="TEXT",
        help="Why you do this; stored in the table audit_log. Required, except with --dry-run and "
        "without --key.",
    ),
]
By = Annotated[
    str | None, typer.Option(metavar="NAME", help="The actor; default is the user and the host.")
]
Everything = Annotated[bool, typer.Option("--all", help="All dead letters, without any filter.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only count by type and reason; change no row.")
]
Completed = Annotated[
    bool,
    typer.Option("--completed", help="Also handle messages again that were completed before."),
]
NewBody = Annotated[
    Path | None,
    typer.Option(
        "--body", metavar="FILE", help="Replace the body of the dead letter with this file."
    ),
]
ShowBody = Annotated[bool, typer.Option("--body", help="Show body and keys; needs --because.")]
Decrypt = Annotated[
    bool,
    typer.Option(
        "--decrypt", help="Like --body, and decrypt an encrypted one with MQ_ENCRYPTION_KEYS."
    ),
]
Bodies = Annotated[bool, typer.Option("--bodies", help="Add bodies and keys; needs --because.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="A new file, or - for standard output.")]


Sort = Annotated[
    Order, typer.Option(help="The order; `attempts` begins with the most, `type` with the cause.")
]


def _filters(
    *,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="The dead letter with this id; repeatable."),
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Dead letters of this type.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="CODE", help="Dead-lettered for this reason.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Dead-lettered longer ago than …, for example 7d."),
    ] = None,
    newer_than: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Dead-lettered within the last …, for example 90s."),
    ] = None,
    error: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS", help="With this class of the last error, for example ValueError."
        ),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="Raised in this file, or at this line: myapp/etl.py:42."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Dead-lettered at this time, 2026-03-01T08:30Z, or later."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Dead-lettered before this time.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="With this idempotency key or ordering key; needs --because."
        ),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="At most N, the oldest first; `list` shows the first N of its order."
        ),
    ] = None,
) -> Selection:
    return selection(
        {
            "ids": ids,
            "type": type_,
            "reason": reason,
            "older_than": older_than,
            "newer_than": newer_than,
            "error": error,
            "place": place,
            "since": since,
            "until": until,
            "key": key,
            "limit": limit,
        }
    )


def with_filters(command: Callable[..., None], *, without: Collection[str]) -> Callable[..., None]:
    """
    Wrap *command* for Typer: the filters replace its parameter `selected`.

    Parameters in *without* are hidden. Invalid options end the process with exit code 2.
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
            fail(error)

    parameters = [one for one in (*own.values(), *filters.values()) if one.name not in without]
    parameters = [_required(one) if one.name == "target" else one for one in parameters]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def _required(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(default=inspect.Parameter.empty)
