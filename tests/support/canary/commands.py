"""
The commands of operators, and all that they print and write.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from outbox.tables import dead_letters
from outbox.wire.encrypted import ENCODING
from tests.support.canary.fleet import Fleet
from tests.support.canary.markers import Search
from tests.support.commands import CommandLine

BECAUSE = ("--because", "a search for markers")
CONSUMERS = tuple(f"tests.support.canary.application:{name}" for name in ("canary", "lanes"))
PRINTED, SHOWN, EXPORTED = "terminal of commands", "terminal of show --body", "export with bodies"


def _without_bodies() -> Iterator[tuple[str, ...]]:
    """Commands that read, each with its options."""
    canary, lanes = CONSUMERS
    yield ("relay", "status")
    yield ("relay", "monitor", "--once")
    yield ("relay", "check")
    yield ("relay", "keys", "status")
    yield ("consumer", "check", canary)
    yield ("consumer", "status", lanes)
    yield ("consumer", "failing", canary)
    for source in ("relay", "canary"):
        yield _dead("list", source)
        yield (*_dead("export", source), "-")


async def look(search: Search, fleet: Fleet, subjects: list[str], unsearched: Path) -> None:
    """Search all that commands with keys print and write; the last one erases *subjects*."""
    shell = CommandLine(unsearched, **{**fleet.with_keys, "PYTHONASYNCIODEBUG": ""})

    async def printed(*command: str) -> bytes:
        ended = await shell.run(*command)
        assert ended.code == 0, ended.err
        return (ended.out + ended.err).encode()

    for ended in await asyncio.gather(*(shell.run(*each) for each in _without_bodies())):
        search.look(PRINTED, (ended.out + ended.err).encode())

    rows = await fleet.rows(dead_letters)
    letters = {
        (row["source"], row["content_encoding"]): row
        for row in rows
        if row["content_encoding"] in {None, ENCODING}
    }
    assert len(letters) == 4
    for (source, _), row in letters.items():
        letter = (str(row["id"]), "--body", *BECAUSE)
        search.look(SHOWN, await printed(*_dead("show", source), *letter))
    for source in {source for source, _ in letters}:
        bodies = ("-", "--bodies", *BECAUSE)
        search.look(EXPORTED, await printed(*_dead("export", source), *bodies))

    names = unsearched / "persons"
    names.write_text("\n".join(subjects))
    for command in (
        ("relay", "erase", "--subject-file", str(names), "--wait", "5", *BECAUSE),
        ("relay", "audit", "list"),
        ("relay", "audit", "verify"),
    ):
        search.look(PRINTED, await printed(*command))


def _dead(verb: str, source: str) -> tuple[str, ...]:
    if source == "relay":
        return ("relay", "dead", verb)
    return ("consumer", "dead", verb, CONSUMERS[0])
