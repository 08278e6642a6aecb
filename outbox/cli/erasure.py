"""
The commands `erase` and `readmit`: the keys of persons.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.cli.console import AsJson
from outbox.cli.start import fail
from outbox.erasure import erasure, readmission
from outbox.erasure.erasure import Erasure
from outbox.erasure.opening import opened, opened_alone
from outbox.errors import ConfigurationError
from outbox.settings import SharedSettings

STATUSES = (
    "Exit status: 0 erased, also if a subject is unknown or was erased before; 2 bad settings or"
    " file; 3 a database or the source of keys is unreachable; 4 batches of consumers did not end"
    " within --wait. After 3, 4 or a crash, the same command goes on."
)
Settings = TypeVar("Settings", bound=SharedSettings)
Database = Callable[[Settings], AbstractAsyncContextManager[AsyncEngine]]

SubjectFile = Annotated[
    Path | None,
    typer.Option(
        "--subject-file",
        metavar="FILE",
        help="The persons, as events name them: one on a line; - reads standard input.",
    ),
]
Because = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Why you do this; stored in audit_log. No name in it!"),
]
By = Annotated[
    str | None, typer.Option(metavar="NAME", help="The actor; default is the user and the host.")
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0,
        max=86_400,
        help="How long to wait for batches of consumers that began before.",
    ),
]


def add_commands(
    app: typer.Typer, settings: Callable[[], Settings], database: Database[Settings]
) -> None:
    """Add the commands to *app*, for the outbox in the *database* of *settings*."""

    @app.command(epilog=STATUSES)
    def erase(
        *,
        subjects: SubjectFile = None,
        because: Because = None,
        by: By = None,
        wait: Wait = 60.0,
        again: Annotated[
            bool,
            typer.Option(
                "--again",
                help="After a restore of the key database: destroy again the keys that audit_log"
                " names. Needs no file.",
            ),
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Only count; change nothing.")
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Destroy the keys of persons: their events can be read no more, in any queue or table."""
        if again == (subjects is not None):
            fail(ConfigurationError("--subject-file: give a file, or --again"))
        names = None if subjects is None else _read(subjects)
        audit = None if dry_run else _audit(because, by)
        loaded = settings()

        async def work() -> Erasure | dict[str, int]:
            within = timedelta(seconds=wait)
            opening = opened if audit is None else opened_alone
            async with opening(loaded, lambda: database(loaded), wait=within) as both:
                if names is None:
                    return {"erased_again": await _again(both, audit)}
                if audit is None:
                    return await erasure.plan(both, names)
                return await erasure.erase(both, names, audit, report=_report)

        _show("would be erased" if dry_run else "erased", _once(work), as_json=as_json)

    @app.command()
    def readmit(
        *,
        subjects: SubjectFile = None,
        because: Because = None,
        by: By = None,
        wait: Wait = 60.0,
        as_json: AsJson = False,
    ) -> None:
        """Let persons who were erased have events again, with new keys."""
        if subjects is None:
            fail(ConfigurationError("--subject-file: is needed"))
        names, audit, loaded = _read(subjects), _audit(because, by), settings()

        async def work() -> readmission.Readmission:
            within = timedelta(seconds=wait)
            async with opened_alone(loaded, lambda: database(loaded), wait=within) as both:
                return await readmission.readmit(both, names, audit)

        _show("readmitted", _once(work), as_json=as_json)
