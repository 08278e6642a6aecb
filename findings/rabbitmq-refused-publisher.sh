#!/usr/bin/env bash
# A publisher's channel that a quorum queue refused stays refused after the limit is gone.
#
# Seen with RabbitMQ 3.10.8 (Debian 12) and pika 1.3.2, 2026-11. A quorum queue is declared with
# `x-overflow: reject-publish`, and an operator limits it by a policy with `max-length`. As long as
# the policy exists everything is as expected: the broker refuses (basic.nack) at the limit, and
# accepts from the same channel once the queue is drained. But an operator who deletes the policy
# while the channel is refused makes that channel useless: the queue is without a limit, and is
# empty, and the broker still refuses each message of this channel. A new channel works at once.
#
# One would guess otherwise: the guide says that the queue tells each channel to refuse from then
# on, not until when; draining ends it, so the end of the limit, which allows more, should as well.
# An operator who sees an empty queue without a limit does not look for refusals there. The
# maintainers fixed it in later series (issue 12206 of rabbitmq-server), not in Debian 12's.
#
# So a publisher opens a new channel when refusals last, instead of waiting on the old one.
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
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install pika==1.3.2 2>/dev/null ||
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
cat >rabbitmqctl <<SCRIPT
#!/bin/sh
exec timeout 60 env -i ${environment[*]@Q} "$programs/rabbitmqctl" --quiet "\$@"
SCRIPT
chmod +x rabbitmqctl
for _ in $(seq 120); do
  grep -q "Server startup complete" server.log && break
  kill -0 "$node" 2>/dev/null || break
  sleep 0.5
done
grep -q "Server startup complete" server.log ||
  { echo "RabbitMQ did not start:" >&2; tail -n 20 server.log >&2; exit 3; }

PORT=$port timeout 300 "$folder/venv/bin/python" - <<'PYTHON'
import os
import subprocess
import time

import pika

LIMIT = 3
PATIENCE_SECONDS = 6.0


def rabbitmqctl(*arguments):
    subprocess.run(["./rabbitmqctl", *arguments], check=True, stdout=subprocess.DEVNULL)


def set_limit():
    rabbitmqctl("set_policy", "limit", "^work$", f'{{"max-length": {LIMIT}}}')
    time.sleep(1.0)


def open_channel(connection):
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def accepts(channel):
    try:
        channel.basic_publish("", "work", b"x")
    except pika.exceptions.NackError:
        return False
    return True


def fill(channel):
    """Publish until the queue refuses."""
    return any(not accepts(channel) for _ in range(10 * LIMIT))


def empty(channel):
    while channel.basic_get("work", auto_ack=True)[0]:
        pass


def accepts_again(connection, channel):
    """Whether it accepts one, tried for some time."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if accepts(channel):
            return True
        connection.sleep(0.5)
    return False


connection = pika.BlockingConnection(
    pika.ConnectionParameters("127.0.0.1", int(os.environ["PORT"]), heartbeat=0)
)
consumer, publisher = connection.channel(), open_channel(connection)
consumer.queue_declare(
    "work",
    durable=True,
    arguments={"x-queue-type": "quorum", "x-overflow": "reject-publish"},
)

set_limit()
print("limit set     | the channel is refused:", refused_first := fill(publisher))
empty(consumer)
with_limit = accepts_again(connection, publisher)
print("drained       | the channel is accepted:", with_limit)

print("filled again  | the channel is refused:", refused_again := fill(publisher))
rabbitmqctl("clear_policy", "limit")
time.sleep(1.0)
empty(consumer)
without_limit = accepts_again(connection, publisher)
print("limit deleted, drained | the channel is accepted:", without_limit)
other = accepts(open_channel(connection))
print("limit deleted, drained | a new channel is accepted:", other)
connection.close()

assert refused_first and with_limit and refused_again, "the limit works otherwise"
assert other, "a new channel is refused as well"
assert not without_limit, "the end of the limit sets the channel free"
PYTHON
