#!/usr/bin/env bash
# A policy with a longer `expires` keeps a quorum queue that its own argument would let expire.
#
# Seen with RabbitMQ 3.10.8 (Debian 12) and pika 1.3.2, 2026-11. A queue is declared with
# `x-expires` of 2 s, and a policy with `expires` of 600 s applies to it. As a classic queue it is
# gone after 2 s. As a quorum queue it stays: the policy's value replaces the argument. The other
# way round (argument 600 s, policy 2 s) both kinds are gone after 2 s, so that a test with a
# shorter policy shows nothing.
#
# One would guess otherwise by either rule of the guides: arguments of a client win over a policy,
# and of two numbers the lower one counts. Both leave 2 s, whatever the kind of queue. The list of
# exceptions to the rule names the overflow of quorum queues, but not their expiry. So an operator
# who sets a generous expiry for all queues makes the short-lived ones of a program pile up. The
# maintainers changed it in the 4.0 series (pull request 10949 of rabbitmq-server).
#
# So a program that needs a queue to end deletes it, or asks the broker for its policy.
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

SHORT, LONG = 2_000, 600_000  # milliseconds
POLICIES = {"longer": LONG, "shorter": SHORT}


def rabbitmqctl(*arguments):
    subprocess.run(["./rabbitmqctl", *arguments], check=True, stdout=subprocess.DEVNULL)


def exists(connection, queue):
    channel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    return True


connection = pika.BlockingConnection(
    pika.ConnectionParameters("127.0.0.1", int(os.environ["PORT"]), heartbeat=0)
)
for policy, milliseconds in POLICIES.items():
    rabbitmqctl("set_policy", policy, f"[.]{policy}$", f'{{"expires": {milliseconds}}}')

channel = connection.channel()
queues = {}
for kind in ("classic", "quorum"):
    for policy, argument in (("none", SHORT), ("longer", SHORT), ("shorter", LONG)):
        queue = f"{kind}.{policy}"
        channel.queue_declare(
            queue, durable=True, arguments={"x-queue-type": kind, "x-expires": argument}
        )
        queues[queue] = argument
connection.sleep(4 * SHORT / 1_000)

left = {}
for queue, argument in queues.items():
    left[queue] = exists(connection, queue)
    policy = POLICIES.get(queue.split(".")[1], "-")
    print(f"{queue:16} argument {argument:6}, policy {policy:6}: exists {left[queue]}")
connection.close()

assert not any(left[f"classic.{policy}"] for policy in ("none", "longer", "shorter")), left
assert not left["quorum.none"] and not left["quorum.shorter"], left
assert left["quorum.longer"], "the lower value wins in a quorum queue as well"
PYTHON
