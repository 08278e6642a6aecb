"""
The option `--version` of both commands.
"""

from typing import Annotated

import typer

import outbox


def _show(wanted: bool) -> None:
    if wanted:
        print(f"outbox-relay {outbox.__version__}")  # noqa: T201
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version.", callback=_show, is_eager=True),
]
