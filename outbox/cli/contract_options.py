"""
The options of the commands that write and compare AsyncAPI documents.
"""

from typing import Annotated

import typer

Output = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Write to this file; standard output by default."),
]
Events = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE",
        help="Add the events that the service sends: the models of this module whose class "
        "has an event_type. May be given several times.",
    ),
]
Title = Annotated[
    str | None, typer.Option(help="Name of the service; the consumer's name by default.")
]
ServiceVersion = Annotated[
    str | None,
    typer.Option(help="Version of the service; that of its installed package by default."),
]
Contract = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Only compare the handlers with an AsyncAPI document that `consumer asyncapi` "
        "wrote earlier, and name what they can no longer read. Connects to no server.",
    ),
]
