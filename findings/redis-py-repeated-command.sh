#!/usr/bin/env bash
# redis-py sends a command again whose answer was lost, also one that must not run twice.
#
# Seen with redis 8.1.0 of PyPI and CPython 3.11, 2026-12. A server accepts XADD, which appends an
# entry under a new id each time, and loses the connection before it answers. With all defaults, and
# in the asyncio client as in the other one, the client connects again and sends the same XADD: the
# server has got it three times here, and the caller sees one success and one id.
#
# One would guess that a client repeats only what the caller says may be repeated, as drivers of SQL
# databases do, or that it repeats reads alone. The default `Retry` knows no difference between a
# GET and an XADD, INCR or LPUSH. So a stream gets an entry twice whenever a network fails at the
# wrong moment, and no log line and no exception says so.
#
# A program that must know passes `retry=Retry(NoBackoff(), 0)`, and makes its writes repeatable by
# itself, for instance by a script that checks an id.
#
# Needs Python 3.11 or newer; no server. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install redis==8.1.0 2>/dev/null ||
  { echo "the packages are missing" >&2; exit 3; }

"$folder/venv/bin/python" - <<'PYTHON'
import asyncio

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

LOST = 2  # so many answers are lost, then the server answers


class Server:
    """Speaks as much of RESP as the client asks for at its start."""

    def __init__(self) -> None:
        self.received = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2].upper())
                if words[0] == b"XADD":
                    self.received += 1
                    if self.received <= LOST:
                        return
                    writer.write(b"$3\r\n1-0\r\n")
                elif words[0] == b"HELLO":
                    writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                else:
                    writer.write(b"+OK\r\n")
                await writer.drain()
        finally:
            writer.close()


async def appended(**options) -> tuple[int, str]:
    """How often the server got the command, and what the caller saw."""
    state = Server()
    server = await asyncio.start_server(state.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Redis(host="127.0.0.1", port=port, **options)
    try:
        seen = str(await asyncio.wait_for(client.xadd("stream", {"event": "1"}), 30))
    except Exception as error:
        seen = type(error).__name__
    await client.aclose()
    server.close()
    return state.received, seen


async def main() -> None:
    by_default = await appended()
    without = await appended(retry=Retry(NoBackoff(), 0))
    print("by default:", by_default)
    print("without retries:", without)
    if by_default != (LOST + 1, "b'1-0'") or without != (1, "ConnectionError"):
        raise SystemExit("redis-py behaves otherwise now")
    print("as described: the command ran again, and its caller was not asked")


asyncio.run(main())
PYTHON
