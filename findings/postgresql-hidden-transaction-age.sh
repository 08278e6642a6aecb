#!/usr/bin/env bash
# A role without pg_read_all_stats sees which transaction is open, and that nothing is old.
#
# Seen with PostgreSQL 15.18 (Debian 12), 2026-11. A session of one role is idle in a transaction
# that has written. A second role, without membership in pg_read_all_stats, reads the row of that
# session in `pg_stat_activity`: `backend_xid` and `backend_xmin` are there, but `xact_start` and
# `state` are NULL. So the usual question for the oldest transaction, `max(now() - xact_start)`,
# counts only the asker's own session and replies 0 s: neither an error nor a NULL.
#
# One would guess otherwise. The manual says that many columns of others' rows are NULL, without a
# list of them; so one looks whether the row tells of its transaction at all, finds the two ids, and
# takes the rest for complete. Or one tests for NULL, and gets 0 s. And it is the harmless looking
# time that is hidden, not the ids, by which one can tell how far behind the session is in
# transactions: `age(backend_xmin)` is the same number for both roles.
#
# So a check of the oldest transaction counts the rows with an id but without a time, and says that
# it may not see them; or its role is a member of pg_read_all_stats.
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

query tester "CREATE ROLE worker LOGIN; CREATE ROLE watcher LOGIN; CREATE ROLE trusted LOGIN;
              GRANT pg_read_all_stats TO trusted;
              CREATE TABLE work (id int); GRANT INSERT, SELECT ON work TO worker;"

mkfifo commands
as_role worker <commands &
exec 9>commands
cat >&9 <<'SQL'
SET application_name = 'old';
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO work VALUES (1);
SQL
for _ in $(seq 100); do
  idle=$(query tester "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'old'
                       AND state = 'idle in transaction' AND backend_xmin IS NOT NULL")
  [ "$idle" = 1 ] && break
  sleep 0.1
done
[ "$idle" = 1 ] || fail "the transaction did not begin"
query tester "INSERT INTO work SELECT generate_series(1, 10)"
sleep 3

columns="SELECT backend_xid IS NOT NULL, backend_xmin IS NOT NULL, age(backend_xmin) >= 1,
                xact_start IS NOT NULL, state IS NOT NULL
         FROM pg_stat_activity WHERE usename = 'worker'"
oldest="SELECT floor(extract(epoch FROM max(now() - xact_start))) >= 3,
               round(extract(epoch FROM max(now() - xact_start))) = 0
        FROM pg_stat_activity"

for role in trusted watcher; do
  seen="$(query $role "$columns") $(query $role "$oldest")"
  echo "$role: xid, xmin, age of xmin, xact_start, state seen | oldest at least 3 s, is 0 s: $seen"
  case $role in
    trusted) [ "$seen" = "t|t|t|t|t t|f" ] || fail "a member of pg_read_all_stats sees it otherwise" ;;
    watcher) [ "$seen" = "t|t|t|f|f f|t" ] || fail "a role without membership sees it otherwise" ;;
  esac
done

echo "ROLLBACK;" >&9
exec 9>&-
wait
