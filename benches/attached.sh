#!/usr/bin/env bash
# What an attached PostgreSQL costs: a million rows read beside psql's own COPY of the same columns, a filter that is
# PostgreSQL's, 100,000 labels written with upsert beside PostgreSQL's own INSERT .. SELECT. Prints seconds and the memory
# that the program took at most.
#   benches/attached.sh BINARY SOCKET_FOLDER PORT     (a superuser `postgres` without a password; makes database safeguard_bench)
set -euo pipefail
binary=$1 host=$2 port=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
psql() { command psql -X -q -h "$host" -p "$port" -U postgres -d "$@"; }
psql postgres -c 'DROP DATABASE IF EXISTS safeguard_bench' -c 'CREATE DATABASE safeguard_bench'
psql safeguard_bench <<'SQL'
CREATE TABLE posts (id bigint PRIMARY KEY, body text, filler text, created_at timestamptz NOT NULL);
INSERT INTO posts SELECT i, 'message number ' || i || ' about the weather in town ' || md5(i::text), repeat(md5(i::text), 8),
  timestamptz '2026-01-01' + i * interval '1 second' FROM generate_series(1, 1000000) i;
CREATE INDEX ON posts (created_at);
CREATE TABLE labels (id bigint PRIMARY KEY, label text NOT NULL, times int NOT NULL DEFAULT 1);
CREATE TABLE labels_there (LIKE labels INCLUDING ALL);
ANALYZE posts;
SQL
timed() { # name, command..
    local name=$1 at
    shift
    at=$(date +%s%N)
    "$@" > "$folder/out" 2> "$folder/err" || { cat "$folder/err" >&2; exit 1; }
    printf '%-44s %6.2f s' "$name" "$(bc -l <<< "($(date +%s%N) - $at) / 1000000000")"
    awk '/Maximum resident/ { printf "  %4d MB at most", $NF / 1024 }' "$folder/err"
    echo
}
ours() { /usr/bin/time -v "$binary" sql --data-dir "$folder/data" --format csv -c "$1"; }
"$binary" sql --data-dir "$folder/data" -c "CREATE SERVER live FOREIGN DATA WRAPPER postgres
    OPTIONS (host '$host', port '$port', dbname 'safeguard_bench', user 'postgres')" > "$folder/out" 2>&1
timed "psql: COPY id, body, 1M rows" psql safeguard_bench -c 'COPY (SELECT id, body FROM posts) TO STDOUT'
timed "ours: count(id), sum(length(body)), 1M rows" ours 'SELECT count(id), sum(length(body)) FROM live.posts'
timed "ours: all columns as csv, 1M rows" ours 'SELECT * FROM live.posts'
timed "ours: count(*)" ours 'SELECT count(*) FROM live.posts'
judged="SELECT label, count(*) FROM (SELECT safeguard_classify('hate', body) AS label FROM live.posts
    WHERE created_at > TIMESTAMPTZ '2026-01-12 13:00:00Z') GROUP BY label ORDER BY label"
timed "ours: rows of the last 46 minutes classified" ours "$judged"
sed 's/^/    /' "$folder/out"
for run in 1 2; do
    rows="SELECT id, 'allowed' AS label FROM live.posts WHERE id <= 100000"
    conflict="ON CONFLICT (id) DO UPDATE SET label = excluded.label, times = labels.times + 1"
    timed "ours: upsert of 100,000 labels, time $run" ours "INSERT INTO live.labels (id, label) $rows $conflict"
    timed "psql: the same from table to table, time $run" psql safeguard_bench -c "INSERT INTO labels_there (id, label)
        SELECT id, 'allowed' FROM posts WHERE id <= 100000
        ON CONFLICT (id) DO UPDATE SET label = excluded.label, times = labels_there.times + 1"
done
psql safeguard_bench -At -c 'SELECT times, count(*) FROM labels GROUP BY 1'
