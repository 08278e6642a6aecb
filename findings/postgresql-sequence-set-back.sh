#!/usr/bin/env bash
# The statistics of a sequence that has given out numbers forget its value when it is set back.
#
# Seen with PostgreSQL 15.18 (Debian 12), 2026-11. A sequence has given out the numbers up to 5000,
# and the table has rows with them. Then someone sets the sequence: `setval(s, 1000, false)` or
# `ALTER SEQUENCE s RESTART WITH 1000`. From then on `pg_sequences.last_value` and
# `pg_sequence_last_value()` are NULL, until the next number is taken.
#
# One would guess otherwise: the view's manual page gives three reasons for a NULL (nobody has read
# from the sequence yet, the reader lacks the privilege, an unlogged sequence on a standby), and
# none of them holds here. A check of "the sequence is behind its table" of the form
# `last_value < max(id)` compares with NULL and finds nothing, at the one moment at which it could
# warn: before the first number that exists already. A `coalesce(last_value, start_value)` does not
# help, as the start value is a third number (7 here). The sequence itself tells: its row has
# `last_value` 1000 and `is_called` false.
#
# So a check reads `SELECT last_value, is_called FROM s`.
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

query() {
  timeout 60 "$bin/psql" -X -h 127.0.0.1 -p "$port" -U tester -d postgres \
    -v ON_ERROR_STOP=1 -Atq -c "$1"
}
fail() { echo "$1" >&2; exit 1; }

query "CREATE TABLE item (id bigint PRIMARY KEY DEFAULT 0);
       CREATE SEQUENCE item_ids START 7 OWNED BY item.id;
       ALTER TABLE item ALTER id SET DEFAULT nextval('item_ids');
       SELECT setval('item_ids', 4000);
       INSERT INTO item SELECT FROM generate_series(1, 1000);" >/dev/null

statistics="SELECT coalesce(last_value::text, 'NULL') FROM pg_sequences WHERE sequencename = 'item_ids'"
function="SELECT coalesce(pg_sequence_last_value('item_ids'::regclass)::text, 'NULL')"
row="SELECT last_value, is_called FROM item_ids"
check="SELECT count(*) FROM pg_sequences
       WHERE sequencename = 'item_ids' AND last_value < (SELECT max(id) FROM item)"
sound="SELECT count(*) FROM item_ids
       WHERE last_value + is_called::int <= (SELECT max(id) FROM item)"

show() {
  seen="$(query "$statistics") $(query "$function") $(query "$row") $(query "$check") $(query "$sound")"
  echo "$1: view, function, row, sequences found behind by the view, by the row: $seen"
}

show "after 1000 rows up to 5000"
[ "$seen" = "5000 5000 5000|t 0 0" ] || fail "the sequence starts otherwise"

query "SELECT setval('item_ids', 1000, true)" >/dev/null
show "after setval(1000, true)"
[ "$seen" = "1000 1000 1000|t 1 1" ] || fail "a plain setval shows otherwise"

for change in "SELECT setval('item_ids', 1000, false)" "ALTER SEQUENCE item_ids RESTART WITH 1000"; do
  query "SELECT setval('item_ids', 5000)" >/dev/null
  query "$change" >/dev/null
  show "after $change"
  [ "$seen" = "NULL NULL 1000|f 0 1" ] || fail "the view or the function tells of the change now"
done

query "INSERT INTO item DEFAULT VALUES" >/dev/null
show "after the next row"
[ "$seen" = "1000 1000 1000|t 1 1" ] || fail "the next row shows otherwise"
