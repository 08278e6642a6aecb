"""
The bytes of each place where data of an event may rest.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

_PROC = Path("/proc")
_LONGEST_REGION = 256 << 20


def files(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """All files below *directory*, with their bytes."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes()


async def tables(engine: AsyncEngine) -> dict[str, bytes]:
    """All columns of all rows of each table in the database, by the name of the table."""
    found = {}
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
        for name in names:
            rows = await connection.execute(sa.text(f'SELECT * FROM "{name}"'))
            values = (value for row in rows for value in row)
            found[name] = b"\n".join(map(_as_bytes, values))
    return found


def _as_bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()


def processes() -> bytes:
    """Command lines and environments of all processes, as root and `ps` see them."""
    listed = subprocess.run(["ps", "-efww"], capture_output=True, check=True).stdout
    found = [listed]
    for process in _PROC.glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with suppress(OSError):  # it has ended, or belongs to another account
                found.append((process / name).read_bytes())
    return b"\n".join(found)


def memory(pid: int) -> Iterator[bytes]:
    """The writable memory of a process, region by region; empty where there is no /proc."""
    if not _PROC.exists():
        return
    maps = (_PROC / str(pid) / "maps").read_text()
    with (_PROC / str(pid) / "mem").open("rb", buffering=0) as mem:
        for line in maps.splitlines():
            addresses, rights, *_rest = line.split()
            start, end = (int(text, 16) for text in addresses.split("-"))
            if rights.startswith("rw") and end - start <= _LONGEST_REGION:
                with suppress(OSError, ValueError):  # it has no pages
                    os.lseek(mem.fileno(), start, os.SEEK_SET)
                    yield mem.read(end - start)


def records_of_wal(binaries: Path, wal: Path) -> bytes:
    """The records of all segments of a *wal* directory, as `pg_waldump` prints them."""
    segments = sorted(path for path in wal.iterdir() if len(path.name) == len("0" * 24))
    # It fails at the end, where the next record is not written yet.
    dumped = subprocess.run(
        [binaries / "pg_waldump", "-p", wal, segments[0].name, segments[-1].name],
        capture_output=True,
        check=False,
    )
    return dumped.stdout + dumped.stderr
