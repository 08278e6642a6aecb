#!/usr/bin/env bash
# A close that is cancelled together with everything else never ends.
#
# Seen with aio-pika 10.2.1, aiormq 7.2.4, Python 3.11 and RabbitMQ 3.10.8 (Debian 12), 2026-11. A
# program closes its connection to a peer that has fallen silent, gives up after a time, and ends;
# the event loop then cancels all tasks that are left, once, and waits for them. aio-pika's close
# goes on to wait for its own callback of the closed connection. If the task of that callback is
# new and among the cancelled ones, it never starts, the callback never counts as done, and the
# program does not end. The script cancels both in that order, the one that decides; at the end of
# a loop it comes about by chance, here in 4 of 70 runs against a silent peer.
#
# One would guess otherwise: a cancelled coroutine ends, at the latest after its own timeouts, and
# `asyncio.run` returns. A supervisor has to kill the process, which delays a deployment by its
# grace period, and a test run stops where nothing fails.
#
# A program can close the transport's connection first, which ends when it is cancelled
# (`connection.transport.connection.close()`), and aio-pika's only after that.
#
# Needs Python 3.11 or newer and Debian's package `rabbitmq-server`. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
node=""
mapper=""
cleanup() {
  for process in $node $mapper; do
    kill -KILL "$process" 2>/dev/null || true
    wait "$process" 2>/dev/null || true
  done
  rm -rf "$folder"
}
trap cleanup EXIT
programs=$(find /usr/lib/rabbitmq/lib -maxdepth 2 -name sbin 2>/dev/null | sort -V | tail -n 1)
[ -n "$programs" ] || { echo "RabbitMQ is missing: apt install rabbitmq-server" >&2; exit 3; }

cd "$folder"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install aio-pika==10.2.1 aiormq==7.2.4 2>/dev/null ||
  { echo "the packages are missing" >&2; exit 3; }

read -r port distribution_port mapper_port < <(python3 -c '
import socket
free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(each.getsockname()[1] for each in free))')
echo "listeners.tcp.local = 127.0.0.1:$port" >rabbitmq.conf
touch none
environment=(
  PATH="$PATH" HOME="$folder" LANG=C.UTF-8
  ERL_EPMD_PORT="$mapper_port" ERL_EPMD_ADDRESS=127.0.0.1
  ERL_FLAGS="+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}"
  RABBITMQ_NODENAME=finding@localhost
  RABBITMQ_CONF_ENV_FILE="$folder/none"
  RABBITMQ_CONFIG_FILE="$folder/rabbitmq.conf"
  RABBITMQ_ADVANCED_CONFIG_FILE="$folder/none.config"
  RABBITMQ_ENABLED_PLUGINS_FILE="$folder/plugins"
  RABBITMQ_MNESIA_BASE="$folder/mnesia" RABBITMQ_LOG_BASE="$folder" RABBITMQ_LOGS=-
)
epmd -port "$mapper_port" -address 127.0.0.1 >/dev/null 2>&1 &
mapper=$!
# With RUNNING_UNDER_SYSTEMD the start script becomes the server, which so has the id of `$!`.
env -i "${environment[@]}" RUNNING_UNDER_SYSTEMD=true RABBITMQ_NODE_PORT="$port" \
  RABBITMQ_DIST_PORT="$distribution_port" "$programs/rabbitmq-server" >server.log 2>&1 &
node=$!
for _ in $(seq 120); do
  grep -q "Server startup complete" server.log && break
  kill -0 "$node" 2>/dev/null || break
  sleep 0.5
done
grep -q "Server startup complete" server.log ||
  { echo "RabbitMQ did not start:" >&2; tail -n 20 server.log >&2; exit 3; }

PORT=$port timeout 120 "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import os

import aio_pika

URL = f"amqp://guest:guest@127.0.0.1:{os.environ['PORT']}/?heartbeat=10"
WAIT_SECONDS = 3


async def cancelled_close(close):
    """Whether the close ends, if it and all tasks that start meanwhile are cancelled."""
    connection = await aio_pika.connect(URL)
    closing = asyncio.create_task(close(connection))
    await asyncio.sleep(0)
    closing.cancel()
    for _ in range(20):
        for task in asyncio.all_tasks() - {asyncio.current_task(), closing}:
            task.cancel()
        await asyncio.sleep(0)
    ended, _ = await asyncio.wait({closing}, timeout=WAIT_SECONDS)
    if not ended:
        closing.cancel()
        await asyncio.wait({closing}, timeout=WAIT_SECONDS)
        assert closing.done(), "it needs more than a second cancellation"
    return bool(ended)


async def own(connection):
    await connection.close()


async def of_the_transport(connection):
    await connection.transport.connection.close()


async def main():
    ended = await cancelled_close(own)
    print("aio-pika's close ends:", ended)
    assert not ended, "the cancelled close ended"
    ended = await cancelled_close(of_the_transport)
    print("the transport's close ends:", ended)
    assert ended, "the close of the transport did not end"


asyncio.run(main())
PYTHON
