#!/usr/bin/env bash
# The statistics of a column keep values of rows that are gone, after every VACUUM and ANALYZE.
#
# Seen with PostgreSQL 15 (Debian 12), 2026-12. ANALYZE stores values of a column, those that it
# takes for frequent and the bounds of a histogram, in pg_statistic; of columns of the type bytea
# and jsonb too, as long as a value has at most 1 kB. Once all rows are deleted, as in a queue, VACUUM
# FULL removes their last bytes from the table, and ANALYZE of the empty table leaves the statistics
# as they are. The values stay in the files of the database, in each base backup, and in pg_stats for
# each role that may read the column.
#
# One would guess otherwise: ANALYZE describes the table as it is, and after VACUUM FULL nothing of a
# deleted row is left in the database. A queue or an outbox is empty most of the time, so the values
# of one busy hour may stay for years.
#
# `ALTER COLUMN … SET STATISTICS 0` stops the collection, and to name the type of the column again
# removes what was collected. The script shows both.
#
# Needs Debian's package `postgresql`. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
programs=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
[ -n "$programs" ] || { echo "PostgreSQL is missing: apt install postgresql" >&2; exit 3; }
as_user=()
if [ "$(id -u)" = 0 ]; then
  chown postgres "$folder"
  as_user=(runuser -u postgres --)
fi
cleanup() {
  (cd / && "${as_user[@]}" "$programs/pg_ctl" --pgdata "$folder/data" --mode immediate stop >/dev/null 2>&1) || true
  rm -rf "$folder"
}
trap cleanup EXIT
cd "$folder"
"${as_user[@]}" "$programs/initdb" --pgdata "$folder/data" --auth trust >/dev/null
"${as_user[@]}" "$programs/pg_ctl" --pgdata "$folder/data" --wait --log "$folder/log" \
  --options "-c listen_addresses='' -c unix_socket_directories='$folder' -c autovacuum=off" start >/dev/null
sql() { "${as_user[@]}" "$programs/psql" --host "$folder" --dbname postgres --quiet --no-align --tuples-only --set ON_ERROR_STOP=1 "$@"; }
kept() { sql --command "SELECT count(*) FROM pg_statistic AS s WHERE s.starelid = 'queue'::regclass AND s::text LIKE '%$1%'"; }

sql --command "SELECT 'PostgreSQL ' || current_setting('server_version')"
sql --command "CREATE TABLE queue (id bigint PRIMARY KEY, body bytea, headers jsonb)"
sql --command "INSERT INTO queue SELECT n, convert_to('reading of patient ' || n, 'UTF8'), jsonb_build_object('ward', 'ward-' || n) FROM generate_series(1, 200) AS n"
sql --command "ANALYZE queue" --command "DELETE FROM queue" --command "VACUUM FULL queue" --command "ANALYZE queue"

text=$(printf 'reading of patient' | od -An -tx1 | tr -d ' \n')
bodies=$(kept "$text")
headers=$(kept 'ward-')
echo "rows in the table: $(sql --command "SELECT count(*) FROM queue")"
echo "columns whose statistics hold a deleted body: $bodies"
echo "columns whose statistics hold a deleted header: $headers"

sql --command "ALTER TABLE queue ALTER COLUMN body SET STATISTICS 0, ALTER COLUMN body TYPE bytea"
after=$(kept "$text")
echo "after SET STATISTICS 0 and the same type again: $after"

[ "$bodies" = 1 ] && [ "$headers" = 1 ] && [ "$after" = 0 ] ||
  { echo "the behaviour has changed" >&2; exit 1; }
echo "as described: the statistics outlive the rows"
