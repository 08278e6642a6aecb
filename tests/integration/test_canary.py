"""
Health data is where the pages say, and with encryption nowhere outside of producer and handler.

Events with random markers in each private field, some encrypted and some not, meet every failure
that this project knows. Then each place is searched for the markers of both: those of the plain
events prove that the search finds markers there, and that the page on such places is complete.
"""

import asyncio
import base64
import gzip
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import zstandard

from tests.support.canary import commands, places
from tests.support.canary.commands import EXPORTED, PRINTED, SHOWN
from tests.support.canary.fleet import Fleet
from tests.support.canary.markers import Group, Markers, Search
from tests.support.canary.scenario import Scenario
from tests.support.canary.servers import on_files, on_servers
from tests.support.commands import CommandLine
from tests.support.processes import REPOSITORY

PAGE = REPOSITORY / "docs/reference/where-data-rests.md"
CELLS = len(("place", "data", "end", "encrypted", "reader"))
DIGESTS = {"digests", "digest without a key", "correlation id as digest"}
"""What the page says of encryption for a place that has nothing else in any case."""

ROWS = {
    "metrics": "metrics",
    "consumer.log": "logs of our processes",
    "relay.log": "logs of our processes",
    "consumer.spans": "traces",
    "relay.spans": "traces",
    "memory of the relay": "memory of a relay",
    "memory of the consumer": "memory of a consumer",
    PRINTED: "a terminal",
    SHOWN: "a terminal",
    EXPORTED: "a file of `dead export --bodies`",
    "table outbox": "`outbox`",
    "table dead_letters": "`dead_letters`",
    "table parked_messages": "`parked_messages`",
    "table processed_messages": "`processed_messages`",
    "table failing_messages": "`failing_messages`",
    "table begun_deliveries": "`begun_deliveries`",
    "table audit_log": "`audit_log`",
    "table approvals": "`approvals`",
    "table ordering_secret": "`ordering_secret`",
}
"""Places that both kinds of deployment have, and their rows of the page."""

ON_FILES = {
    "outbox": "SQLite file of a database, with `-wal` and `-shm`",
    "embedded broker": "SQLite file of the embedded broker, with `-wal`",
}
ON_SERVERS = {
    "data directory": "dead rows and TOAST of Postgres",
    "WAL": "WAL",
    "base backup": "base backups, dumps, snapshots of disks",
    "disk of RabbitMQ": "disk of each member of RabbitMQ",
    "log of Postgres": "server log of Postgres",
}
TESTED = "producer.log"
"""Has all statements with their values, because the producer of the test wants it so."""


def documented() -> dict[str, bool]:
    """Whether a place has data of an event that is not encrypted, as the page says."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
        if line.startswith("| ") and len(cells) == CELLS:
            place, data, _, encrypted, _ = cells
            is_empty = data.startswith(("nothing", "no "))
            found[place] = not is_empty and encrypted not in DIGESTS
    return found


@pytest.mark.parametrize("kind", ["files", "servers"])
@pytest.mark.timeout(300)  # of the machine, if others use it; alone it takes a tenth
async def test_markers_of_encrypted_events_are_nowhere(kind: str, tmp_path: Path) -> None:
    work, logs, unsearched = (tmp_path / name for name in ("work", "logs", "unsearched"))
    for directory in (work, logs, unsearched):
        directory.mkdir()
    markers = {group: Markers() for group in Group}
    search = Search(markers)
    async with AsyncExitStack() as stack:
        servers = (
            on_files(work) if kind == "files" else await stack.enter_async_context(on_servers())
        )
        fleet = Fleet(servers.database_url, servers.broker_url, logs, keys=servers.keys)
        await asyncio.gather(prepare(fleet, work), servers.ready())
        async with fleet:
            scenario = Scenario(fleet, markers, servers.outage, unsearched, search)
            await scenario.live()
            await commands.look(search, fleet, scenario.subjects, unsearched)
            for name, data in (await places.tables(fleet.engine)).items():
                search.look(f"table {name}", data)
        await servers.look(search)
        for path, data in places.files(logs):
            search.look(f"{path.name.partition('-')[0]}{path.suffix}", data)

    assert found_of_encrypted(search) == {"memory of the consumer": "memory of the consumer"}
    own_statements = {"log of Postgres"} if kind == "servers" else set()
    assert search.places(Group.HANDLER) == {"memory of the consumer", *own_statements}

    page, rows = documented(), ROWS | (ON_FILES if kind == "files" else ON_SERVERS)
    assert rows.keys() <= search.searched.keys()
    in_clear = {place for place, row in rows.items() if page[row]}
    assert search.places(Group.PLAIN) == {*in_clear, TESTED}


async def prepare(fleet: Fleet, directory: Path) -> None:
    shell = CommandLine(directory, **fleet.with_keys)
    for command in (("relay", "migrate"), ("relay", "keys", "init")):
        ended = await shell.run(*command)
        assert ended.code == 0, ended.err


def found_of_encrypted(search: Search) -> dict[str, str]:
    """The places with markers of encrypted events, and what is around one of them."""
    return {
        place: place if place.startswith("memory of the consumer") else str(around)
        for place, around in search.found[Group.ENCRYPTED].items()
    }


def test_a_marker_is_found_in_each_encoding() -> None:
    def is_found(data: bytes) -> bool:
        search = Search({Group.PLAIN: markers})
        search.look("here", b"before" + data + b"behind")
        return search.places(Group.PLAIN) == {"here"}

    markers = Markers()
    text = markers.new()
    plain = text.encode()
    packed = gzip.compress(plain), zstandard.compress(plain)
    encoded = [
        plain,
        text.upper().encode(),
        json.dumps(text).encode(),
        text.encode("utf-16-le"),
        plain.hex().encode(),
        *(base64.b64encode(bytes(before) + plain) for before in range(3)),
        *(base64.urlsafe_b64encode(bytes(before) + plain) for before in range(3)),
        *packed,
        *(b"\\x" + each.hex().encode() + b"'" for each in packed),
        *(b'"' + base64.b64encode(each) + b'"' for each in packed),
    ]

    assert [number for number, data in enumerate(encoded) if not is_found(data)] == []
    assert not is_found(PAGE.read_bytes())
