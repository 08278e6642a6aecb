#!/usr/bin/env bash
# A wrong virtual host reads as an invalid frame, without the broker's code and reason.
#
# Seen with aiormq 7.2.4, pamqp 4.0.1 and RabbitMQ 3.10.8 (Debian 12), 2026-11. The client logs in
# and opens a virtual host that does not exist. The broker replies with Connection.Close, code 530
# and a text that names the virtual host. aiormq raises `InvalidFrameError`, and its message shows
# that frame by its address in memory only; neither the exception, nor its cause and context, have
# the code or the text. The same client knows code 530 as `ConnectionNotAllowed`, and raises
# `ConnectionClosed` with code and text where the frame is not the reply to a request.
#
# One would guess otherwise: a refusal at login raises `ProbableAuthenticationError` with the text
# of the broker, so that of the next step should say as much. An operator with a misspelt URL reads
# of a broken protocol instead, and code that decides by `ConnectionClosed` and its code (retry a
# full broker, give up on a wrong name) gets neither. Only the broker's log has the reason.
#
# So a program names the URL, without the password, and the virtual host when it cannot connect.
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
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install aiormq==7.2.4 pamqp==4.0.1 2>/dev/null ||
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

import aiormq

URL = f"amqp://guest:{{}}@127.0.0.1:{os.environ['PORT']}/{{}}"


async def refusal(password, vhost):
    try:
        connection = await aiormq.connect(URL.format(password, vhost))
    except aiormq.exceptions.AMQPError as error:
        return error
    await connection.close()
    return None


def chain(error):
    """The error and all that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def told(error):
    """All that the chain says in words or attributes."""
    return " ".join(f"{each} {each!r} {each.args} {vars(each)}" for each in chain(error))


async def main():
    assert await refusal("guest", "%2F") is None, "the right virtual host is refused"
    login = await refusal("wrong", "%2F")
    print("wrong password:", repr(login))
    assert isinstance(login, aiormq.exceptions.ProbableAuthenticationError), repr(login)
    assert "ACCESS_REFUSED" in told(login)

    opening = await refusal("guest", "nowhere")
    print("wrong virtual host:", repr(opening))
    assert type(opening) is aiormq.exceptions.InvalidFrameError, repr(opening)
    assert not isinstance(opening, aiormq.exceptions.ConnectionClosed)
    assert "Connection.Close object at 0x" in str(opening), str(opening)
    for word in ("530", "NOT_ALLOWED", "not found", "nowhere"):
        assert word not in told(opening).replace(hex(id(opening)), ""), f"it tells {word}"


asyncio.run(main())
PYTHON
grep -q "vhost nowhere not found" server.log ||
  { echo "the broker's log does not tell the reason" >&2; exit 1; }
