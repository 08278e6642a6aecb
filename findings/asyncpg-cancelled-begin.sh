#!/usr/bin/env bash
# A connection whose BEGIN was cancelled looks idle, and is in a transaction a moment later.
#
# Seen with asyncpg 0.32.0 and PostgreSQL 15, 2026-11. A task that awaits `execute("BEGIN")` is
# cancelled while the server's reply is on its way. At once `is_in_transaction()` is False and
# `is_closed()` is False, so code that gives connections back to a pool takes this one for clean.
# The reply arrives afterwards: the server has begun a transaction that no code will end, and the
# next user of the connection works inside it. An asyncpg transaction then refuses to start
# ("cannot use Connection.transaction() in a manually started transaction").
#
# So a connection has to be closed, or asked by a query, after a cancelled BEGIN; its own flags are
# too early. The unit of work of the consumer closes it.
#
# Needs Python 3.11 or newer and Debian's package `postgresql`. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
as_server() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
cleanup() {
  as_server "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$folder"
}
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
[ -n "$bin" ] || { echo "PostgreSQL is missing: apt install postgresql" >&2; exit 3; }
trap cleanup EXIT

if [ "$(id -u)" = 0 ]; then chown postgres "$folder"; fi
chmod 755 "$folder"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cd "$folder"
as_server "$bin/initdb" -D "$folder/data" -U tester --auth=trust >/dev/null
as_server "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/log" \
  -o "-p $port -c listen_addresses=127.0.0.1 -k $folder" start >/dev/null
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install asyncpg==0.32.0 2>/dev/null

PORT=$port "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import os

import asyncpg

SERVER = ("127.0.0.1", int(os.environ["PORT"]))
REPLY_SECONDS = 0.3  # the way of a reply from the server


async def copy(reader, writer, delay):
    while data := await reader.read(65_536):
        await asyncio.sleep(delay())
        writer.write(data)
    writer.close()


async def main():
    delay = 0.0

    async def serve(reader, writer):
        server_reader, server_writer = await asyncio.open_connection(*SERVER)
        await asyncio.gather(
            copy(reader, server_writer, lambda: 0.0),
            copy(server_reader, writer, lambda: delay),
            return_exceptions=True,
        )

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    connection = await asyncpg.connect(
        host="127.0.0.1", port=port, user="tester", database="postgres", ssl=False
    )

    delay = REPLY_SECONDS
    begin = asyncio.create_task(connection.execute("BEGIN"))
    await asyncio.sleep(REPLY_SECONDS / 3)
    begin.cancel()
    await asyncio.wait({begin})
    at_once = (connection.is_in_transaction(), connection.is_closed())
    print("cancelled:", begin.cancelled(), "| in transaction, closed:", *at_once)

    delay = 0.0
    await asyncio.sleep(2 * REPLY_SECONDS)
    await connection.execute("SELECT 1")
    later = (connection.is_in_transaction(), connection.is_closed())
    print("after the next query | in transaction, closed:", *later)
    try:
        async with connection.transaction():
            refusal = "none"
    except asyncpg.InterfaceError as error:
        refusal = str(error)
    print("connection.transaction():", refusal)

    connection.terminate()
    proxy.close()
    await asyncio.sleep(REPLY_SECONDS)  # so that the proxy's tasks end before the loop
    assert at_once == (False, False), at_once
    assert later == (True, False), later
    assert "manually started transaction" in refusal


asyncio.run(main())
PYTHON
