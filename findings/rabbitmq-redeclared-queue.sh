#!/usr/bin/env bash
# A queue that is deleted and declared again at once keeps a subscription that gets nothing.
#
# Seen with RabbitMQ 3.10.8 (Debian 12) and pika 1.3.2, 2026-11. A client subscribes to a queue.
# Another one deletes it, declares it again at once with the same arguments, and publishes three
# messages, all confirmed. If it is a classic queue, the subscriber gets a basic.cancel, and the
# messages are ready. If it is a quorum queue, it gets neither a basic.cancel nor a message within
# 15 s. Yet the broker counts one consumer and no ready message: it hands the messages to the
# subscription of the old queue, where they stay unacknowledged until the connection ends.
#
# One would guess that a subscriber of a deleted queue is cancelled, as the guide to consumers
# says, or that it goes on with the new queue. Here the number of consumers and the number of ready
# messages look healthy while nothing is consumed. An operator's script that resets a queue does
# this to each running consumer.
#
# So a consumer without messages subscribes again after a while, and a queue is reset while its
# consumers are stopped.
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

import pika

MESSAGES, WAIT_SECONDS = 3, 15


def connect():
    return pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", int(os.environ["PORT"]), heartbeat=0)
    )


def declare(channel, kind):
    queue = f"{kind}.work"
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
    return queue


found = {}
for kind in ("classic", "quorum"):
    consuming, operating = connect(), connect()
    operator = operating.channel()
    queue = declare(operator, kind)
    received, cancelled = [], []
    subscriber = consuming.channel()
    subscriber.basic_qos(prefetch_count=10)
    subscriber.add_on_cancel_callback(cancelled.append)
    subscriber.basic_consume(queue, lambda *parts: received.append(parts))
    consuming.sleep(2)

    operator.queue_delete(queue)
    declare(operator, kind)
    operator.confirm_delivery()
    for _ in range(MESSAGES):
        operator.basic_publish("", queue, b"{}", mandatory=True)
    consuming.sleep(WAIT_SECONDS)

    counted = operator.queue_declare(queue, passive=True).method
    found[kind] = (len(cancelled), len(received), counted.consumer_count, counted.message_count)
    print(
        f"{kind:8} cancel notifications {len(cancelled)}, received {len(received)} of {MESSAGES},"
        f" consumers {counted.consumer_count}, ready messages {counted.message_count}"
    )
    consuming.close()
    operating.close()

assert found["classic"] == (1, 0, 0, MESSAGES), found
assert found["quorum"] == (0, 0, 1, 0), found
PYTHON
