-- The tables that the probes read. Each statement means the same to PostgreSQL 15 and to safeguard; a line that ends
-- with a semicolon ends a statement (the probes split the file there).
DROP TABLE IF EXISTS posts;
DROP TABLE IF EXISTS kinds;
DROP TABLE IF EXISTS lab;
CREATE TABLE posts (id BIGINT, author BIGINT, body TEXT, created_at TIMESTAMP);
INSERT INTO posts SELECT i, i % 7, 'post number ' || i, TIMESTAMP '2026-01-01 00:00:00' + CAST(i || ' minutes' AS INTERVAL)
  FROM generate_series(1, 20000) AS s(i);
CREATE TABLE kinds (i2 SMALLINT, i4 INT, i8 BIGINT, f4 REAL, f8 DOUBLE PRECISION, n NUMERIC(12, 3), t TEXT, b BYTEA,
  ok BOOLEAN, d DATE, tm TIME, ts TIMESTAMP, tz TIMESTAMP WITH TIME ZONE);
CREATE TABLE lab (id BIGINT, label TEXT);
