"""
Options of `consumer run` that ask for several processes.
"""

from typing import Annotated

import typer

Processes = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Keep N processes running; auto: as many as the backlog needs.",
    ),
]
Minimum = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="With auto: at least N; 1 by default."),
]
Maximum = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With auto: at most N; by default the number of cores that the process may use.",
    ),
]
