#!/usr/bin/env bash
# A connect that is cancelled early leaves an exception that nobody can retrieve.
#
# Seen with asyncpg 0.32.0 and Python 3.11, 2026-11. A task that awaits `asyncpg.connect()` is
# cancelled some turns of the event loop after its start, and is awaited: it ends by CancelledError,
# as it should. If asyncio is then about to hand over the new connection (4 or 5 turns here; 1 to 3
# and 6 to 20 leave nothing), asyncio closes it, and asyncpg's protocol for the question whether the
# server has TLS fails a future that no code has seen. asyncio reports "Future exception was never
# retrieved" through the exception handler of the loop once the future is collected, later and out
# of the context of the connect. So it is with `ssl="prefer"`, the default; with `ssl=False` never.
#
# One would guess otherwise: the caller has awaited the cancelled task, the one thing that asyncio
# asks of it, and holds no other future. `asyncio.timeout()` around a connect, or a task group whose
# other task fails, is such a cancellation. A program that stops on what its exception handler
# reports, or tests that fail on it, then fail now and then, and their own code shows no cause.
#
# So the exception handler has to let this one pass, or the connect has to be shielded.
#
# Needs Python 3.11 or newer; no server. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install asyncpg==0.32.0 2>/dev/null ||
  { echo "the package is missing" >&2; exit 3; }

timeout 120 "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import gc

import asyncpg

TURNS = 20


async def cancel_after(turns, port, ssl):
    """Return what asyncio reports after a connect that was cancelled, and how it ended."""
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    connecting = asyncio.create_task(
        asyncpg.connect(
            host="127.0.0.1", port=port, user="u", password="p", database="d", ssl=ssl
        )
    )
    for _ in range(turns):
        await asyncio.sleep(0)
    connecting.cancel()
    try:
        await connecting
    except asyncio.CancelledError:
        cancelled = True
    else:
        cancelled = False
    del connecting
    await asyncio.sleep(0.1)
    gc.collect()
    await asyncio.sleep(0)

    return cancelled, [(each["message"], repr(each.get("exception"))) for each in reports]


async def main():
    writers = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    found = {"prefer": {}, False: {}}
    for ssl, reported in found.items():
        for turns in range(1, TURNS + 1):
            cancelled, reports = await cancel_after(turns, port, ssl)
            assert cancelled, f"after {turns} turns the connect was not cancelled"
            if reports:
                reported[turns] = reports
                print(f"ssl={ssl!r}, cancelled after {turns} turns:", *reports)
    for writer in writers:
        writer.close()
    silent.close()

    assert not found[False], "it is reported without TLS as well"
    assert found["prefer"], "nothing is reported"
    for reports in found["prefer"].values():
        for message, _ in reports:
            assert message == "Future exception was never retrieved", message


asyncio.run(main())
PYTHON
