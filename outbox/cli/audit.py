"""
The commands `audit list`, `verify` and `head` of both processes.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit import pin, verification
from outbox.audit.chain import Head
from outbox.audit.listing import LIMIT, Wanted, listed
from outbox.audit.log import Audit, StatedFilters, user_and_host
from outbox.audit.verification import Verified
from outbox.cli.console import AsJson, console, print_json
from outbox.cli.dead_letter_options import Target, with_filters
from outbox.cli.interruptible import run_query
from outbox.cli.tables import print_table, short
from outbox.database import migrate, privileges, row_access
from outbox.database.privileges import Rights
from outbox.dead_letters.selection import instant
from outbox.dead_letters.source import DeadLetterSource
from outbox.runtime.service import ExitCode

OpenSource = Callable[[str], DeadLetterSource]

EXIT_CODES = (
    "Exit status: 0 done, 1 the log is not as it was recorded, 2 bad options or settings, "
    "3 database unreachable."
)
BECAUSE = "audit head --publish"
"""The reason of the row for a pinned head."""

Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Recorded at this time, 2026-03-01T08:30Z, or later."),
]
Actor = Annotated[str | None, typer.Option(metavar="NAME", help="By exactly this actor.")]
OfAction = Annotated[str | None, typer.Option(metavar="ACTION", help="Of this action.")]
Limit = Annotated[int, typer.Option(min=1, metavar="N", help="At most N, the newest.")]
Pinned = Annotated[
    str | None,
    typer.Option("--head", metavar="N:HASH", help="A head that was kept elsewhere."),
]
Publish = Annotated[
    bool,
    typer.Option(
        "--publish", help="Also record it as an event audit.head, so that another system keeps it."
    ),
]


def app(open_source: OpenSource, *, of_consumers: bool) -> typer.Typer:
    """Return the sub-command `audit`; its commands take a target only if *of_consumers*."""
    commands = AuditCommands(open_source)
    made = typer.Typer(
        name="audit",
        help="Read the audit log, and check that it is as it was recorded.",
        epilog="See the page Audit of the documentation. " + EXIT_CODES,
        no_args_is_help=True,
    )
    named: dict[str, Callable[..., None]] = {
        "list": commands.list_rows,
        "verify": commands.verify,
        "head": commands.head,
    }
    for name, command in named.items():
        without = set() if of_consumers else {"target"}
        made.command(name)(with_filters(command, without=without))
    return made


class AuditCommands:
    """The commands on the audit log in the database of the source that *open_source* returns."""

    def __init__(self, open_source: OpenSource) -> None:
        self._open = open_source

    def list_rows(
        self,
        *,
        target: Target = "",
        since: Since = None,
        actor: Actor = None,
        action: OfAction = None,
        limit: Limit = LIMIT,
        as_json: AsJson = False,
    ) -> None:
        """List who did what, and why; the newest rows."""
        wanted = Wanted(since=instant("--since", since), actor=actor, action=action, limit=limit)
        source = self._open(target)

        async def read() -> Any:
            async with _reading(source) as engine:
                return await listed(engine, wanted)

        rows = run_query(read)
        if as_json:
            print_json([_plain(row) for row in rows])
        else:
            _show(rows)

    def verify(
        self, *, target: Target = "", pinned: Pinned = None, as_json: AsJson = False
    ) -> None:
        """Check that no row was changed, removed, moved or added beside the chain."""
        kept = None if pinned is None else Head.parsed("--head", pinned)
        source = self._open(target)

        async def check() -> Verified:
            async with _reading(source) as engine:
                return await verification.verify(engine, pinned=kept)

        found = run_query(check)
        if as_json:
            print_json(_as_json(found))
        else:
            console.print(_sentence(found))
        if found.fault is not None:
            raise SystemExit(ExitCode.CRASHED)

    def head(self, *, target: Target = "", publish: Publish = False) -> None:
        """Print the head of the log, N:HASH, to keep it elsewhere."""
        source = self._open(target)

        async def read() -> Head:
            rights = pin.RIGHTS if publish else verification.RIGHTS
            async with _reading(source, rights) as engine:
                if not publish:
                    return await pin.head_of(engine)
                audit = Audit(
                    actor=user_and_host(),
                    because=BECAUSE,
                    source=source.name,
                    selection=StatedFilters(),
                )
                return await pin.publish(engine, audit)

        print(run_query(read))  # noqa: T201 - for programs


@asynccontextmanager
async def _reading(
    source: DeadLetterSource, rights: Rights = verification.RIGHTS
) -> AsyncIterator[AsyncEngine]:
    database: AbstractAsyncContextManager[AsyncEngine] = source.database()
    async with database as engine:
        await migrate.verify(engine)
        await privileges.verify(engine, rights)
        await row_access.verify(engine, rights)
        yield engine


def _show(rows: Any) -> None:
    columns = ("id", "at", "actor", "role", "action", "source", "messages", "because")
    table = Table(*columns, "selection", "details")
    for row in rows:
        texts = [
            row["at"].isoformat(sep=" ", timespec="seconds") if name == "at" else row[name]
            for name in columns
        ]
        stated = [json.dumps(row[name]) for name in ("selection", "details")]
        table.add_row(*(Text(short(str(text))) for text in (*texts, *stated)))
    print_table(console, table)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    changed = {"at": row["at"].isoformat(), "run": str(row["run"])}
    return row | changed | {"hash": row["hash"] and row["hash"].hex()}


def _as_json(found: Verified) -> dict[str, Any]:
    fault = found.fault and {"problem": found.fault.problem.value, "id": found.fault.id}
    return {"head": str(found.head), "uncovered": found.uncovered, "fault": fault}


def _sentence(found: Verified) -> str:
    lines = [f"rows as they were recorded: {found.head.rows:,}, up to {found.head}"]
    if found.uncovered:
        lines.append(f"{found.uncovered:,} rows from before revision 0012 are not covered")
    if found.fault is not None:
        where = "the log" if found.fault.id is None else f"row {found.fault.id}"
        lines.append(f"{where}: {found.fault.problem.meaning}")
    return "\n".join(lines)
