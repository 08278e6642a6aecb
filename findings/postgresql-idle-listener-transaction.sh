#!/usr/bin/env bash
# A session that only LISTENs shows a transaction as old as its last statement, while it is notified.
#
# Seen with PostgreSQL 15.20 (Debian 12), 2026-11. A session executes LISTEN, commits, and is idle
# for three seconds. Then another session commits notifications. For moments `pg_stat_activity` has
# for the listener `state` idle, an `xact_start` of three seconds ago, and a `backend_xmin`: the
# server handles a notification in a transaction of its own, and gives that the time of the last
# statement of the session as its beginning. After an idle day it seems to be a day old.
#
# One would guess otherwise. A session in no transaction has no `xact_start`, and the manual says
# that an idle one waits for a command; so one takes max(now() - xact_start) for the age of the
# oldest transaction, and backend_xmin for a snapshot that has kept rows from vacuum since then. An
# alert on either fires now and then under load, for sessions that hold nothing: no statement, no
# row, and a snapshot of some microseconds.
#
# So such a question leaves out sessions whose state is idle.
#
# Needs Debian's package `postgresql` and Python 3 for a free port. Fails if the behaviour changes.
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

as_role() {
  timeout 60 "$bin/psql" -X -h 127.0.0.1 -p "$port" -U "$1" -d postgres \
    -v ON_ERROR_STOP=1 -Atq "${@:2}"
}
query() { as_role "$1" -c "$2"; }
fail() { echo "$1" >&2; exit 1; }

query tester "CREATE FUNCTION watched(seconds int) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
    found text;
    until timestamptz := clock_timestamp() + make_interval(secs => seconds);
BEGIN
    WHILE found IS NULL AND clock_timestamp() < until LOOP
        PERFORM pg_stat_clear_snapshot();
        SELECT concat_ws(' ', state, floor(extract(epoch FROM clock_timestamp() - xact_start)),
                         CASE WHEN backend_xmin IS NOT NULL THEN 'snapshot' END)
        INTO found FROM pg_stat_activity
        WHERE application_name = 'listener' AND xact_start IS NOT NULL AND backend_xmin IS NOT NULL;
    END LOOP;
    RETURN found;
END \$\$"

mkfifo commands
as_role tester <commands >/dev/null &
exec 9>commands
echo "SET application_name = 'listener'; LISTEN news;" >&9
for _ in $(seq 100); do
  rest=$(query tester "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'listener'
    AND query LIKE '%LISTEN%' AND state = 'idle' AND clock_timestamp() - state_change > '3 s'")
  [ "$rest" = 1 ] && break
  sleep 0.1
done
[ "$rest" = 1 ] || fail "the listener did not become idle"

query tester "DO \$\$ BEGIN FOR i IN 1..200000 LOOP
  PERFORM pg_notify('news', i::text); COMMIT;
END LOOP; END \$\$" >/dev/null 2>&1 &
notifier=$!
seen=$(query tester "SELECT watched(30)")
kill "$notifier" 2>/dev/null || true
exec 9>&-

echo "PostgreSQL $("$bin/postgres" --version | cut -d' ' -f3): the listener was seen as: $seen"
case $seen in
  "idle "[3-9]*" snapshot") ;;
  *) fail "an idle session shows no old transaction while it is notified: the behaviour has changed" ;;
esac
