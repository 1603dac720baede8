import java.math.BigDecimal;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.*;
import java.time.*;
import java.util.*;

/**
 * pgJDBC against the server: prepared statements and the switch to server-prepared ones, cursors by fetchSize, types in
 * text and binary, batches, timeouts, and what DatabaseMetaData asks of the catalog.
 *
 *   java -cp /usr/share/java/postgresql.jar tests/clients/JdbcProbe.java HOST PORT USER DB [--oracle] [--only WORD]
 *
 * One line a probe, `ok NAME` or `FAIL NAME: why`; exit status 1 where one failed.
 *
 * | line of the table of what failed before | probes |
 * |---|---|
 * | JDBC setQueryTimeout(1) | query_timeout, cancel |
 * | getPrimaryKeys .. getProcedures, getTypeInfo | metadata_* |
 * | getObject on struct/interval columns | struct_and_interval |
 * | generated keys, batch update counts | generated_keys, batch_counts |
 * | COPY | copy_in_and_out |
 */
class JdbcProbe {
    interface Probe { void run() throws Exception; }

    static class Failed extends Exception { Failed(String why) { super(why); } }

    static String url, user, host, db, only = "";
    static int port;
    static boolean oracle;
    static int failures;
    static final long STOP_NANOS = 1_000_000_000L * Integer.parseInt(Objects.requireNonNullElse(System.getenv("PROBE_STOP_SECONDS"), "1"));

    static Connection open(String... options) throws SQLException {
        Properties p = new Properties();
        p.setProperty("user", user);
        String password = System.getenv("PGPASSWORD");
        if (password != null) p.setProperty("password", password);
        p.setProperty("socketTimeout", "60");
        for (int at = 0; at < options.length; at += 2) p.setProperty(options[at], options[at + 1]);
        return DriverManager.getConnection(url, p);
    }

    static void probe(String name, Probe body) { probe(name, false, body); }

    static void probe(String name, boolean onlyOurs, Probe body) {
        if (!name.contains(only)) return;
        if (onlyOurs && oracle) { System.out.println("skipped " + name + ": the oracle has no such thing"); return; }
        try {
            body.run();
            System.out.println("ok " + name);
        } catch (Throwable e) {
            failures++;
            String state = e instanceof SQLException s ? s.getSQLState() + " " : "";
            String text = String.valueOf(e.getMessage()).replace('\n', ' ');
            String kind = e instanceof Failed ? "" : e.getClass().getSimpleName() + ": ";
            System.out.println("FAIL " + name + ": " + state + kind + text.substring(0, Math.min(400, text.length())));
            if (System.getenv("PROBE_TRACE") != null) e.printStackTrace();
        }
    }

    static void same(Object found, Object wanted) throws Failed { same(found, wanted, ""); }

    static void same(Object found, Object wanted, String what) throws Failed {
        if (!Objects.deepEquals(found, wanted)) throw new Failed(what + " " + show(found) + ", not " + show(wanted));
    }

    static String show(Object o) { return o instanceof Object[] a ? Arrays.deepToString(a) : String.valueOf(o); }

    static void holds(boolean condition, String why) throws Failed { if (!condition) throw new Failed(why); }

    /** Rows as strings, columns by a bar. */
    static List<String> rows(ResultSet r, String... names) throws SQLException {
        List<String> found = new ArrayList<>();
        int count = r.getMetaData().getColumnCount();
        while (r.next()) {
            StringJoiner line = new StringJoiner("|");
            if (names.length == 0) for (int at = 1; at <= count; at++) line.add(r.getString(at));
            for (String name : names) line.add(r.getString(name));
            found.add(line.toString());
        }
        return found;
    }

    static List<String> query(Connection c, String sql, Object... values) throws SQLException {
        try (PreparedStatement p = c.prepareStatement(sql)) {
            for (int at = 0; at < values.length; at++) p.setObject(at + 1, values[at]);
            return rows(p.executeQuery());
        }
    }

    static SQLException refused(String state, Probe body) throws Exception {
        try {
            body.run();
        } catch (SQLException e) {
            holds(Arrays.asList(state.split(" ")).contains(e.getSQLState()), "SQLSTATE " + e.getSQLState() + ", not " + state + ": " + e.getMessage());
            return e;
        }
        throw new Failed("not refused with " + state);
    }

    static void worksOrRefused(Probe body) throws Exception {
        try { body.run(); } catch (SQLException e) { holds("0A000".equals(e.getSQLState()), e.getSQLState() + " " + e.getMessage()); }
    }

    static String slow(String tag) {
        if (oracle) return "SELECT count(pg_sleep(60))";
        return "SELECT count(safeguard_classify('keywords', body || ' " + tag + " " + System.nanoTime() + "')) FROM posts";
    }

    static void setUp(Path common) throws Exception {
        StringBuilder text = new StringBuilder();
        for (String line : Files.readAllLines(common)) if (!line.startsWith("--")) text.append(line).append('\n');
        try (Connection c = open(); Statement s = c.createStatement()) {
            for (String statement : text.toString().split(";\n")) if (!statement.isBlank()) s.execute(statement);
        }
    }

    public static void main(String[] a) throws Exception {
        host = a[0];
        port = Integer.parseInt(a[1]);
        user = a[2];
        db = a[3];
        for (int at = 4; at < a.length; at++) {
            if (a[at].equals("--oracle")) oracle = true;
            if (a[at].equals("--only")) only = a[++at];
        }
        url = "jdbc:postgresql://" + host + ":" + port + "/" + db;
        setUp(Path.of(System.getProperty("common", "tests/clients/common.sql")));
        statements();
        types();
        streams();
        writes();
        sessions();
        metadata();
        System.out.flush();
        System.exit(failures == 0 ? 0 : 1);
    }

    static void statements() {
        probe("connect", () -> {
            try (Connection c = open()) {
                DatabaseMetaData m = c.getMetaData();
                same(m.getDatabaseProductName(), "PostgreSQL");
                holds(m.getDatabaseMajorVersion() >= 15, m.getDatabaseProductVersion());
                holds(c.isValid(5), "not valid");
                same(c.getCatalog(), db);
                same(c.getSchema(), "public");
                same(m.getUserName(), user);
            }
        });
        probe("simple_protocol", () -> {
            try (Connection c = open("preferQueryMode", "simple")) {
                same(query(c, "SELECT id, body FROM posts WHERE id = ?", 7), List.of("7|post number 7"));
                same(query(c, "SELECT body FROM posts WHERE body = ? AND created_at < ?", "post number 7", Timestamp.valueOf("2026-01-02 00:00:00")), List.of("post number 7"));
            }
        });
        probe("prepared", () -> {
            try (Connection c = open()) {
                same(query(c, "SELECT body FROM posts WHERE id = ?", 7L), List.of("post number 7"));
                same(query(c, "SELECT body FROM posts WHERE id = ?", 7), List.of("post number 7"));
                same(query(c, "SELECT id FROM posts WHERE body = ?", "post number 9"), List.of("9"));
                same(query(c, "SELECT id FROM posts ORDER BY id LIMIT ? OFFSET ?", 2, 3), List.of("4", "5"));
                same(query(c, "SELECT count(*) FROM posts WHERE created_at < ?", Timestamp.valueOf("2026-01-01 00:05:00")), List.of("4"));
                same(query(c, "SELECT count(*) FROM posts WHERE created_at < ?", LocalDateTime.of(2026, 1, 1, 0, 5)), List.of("4"));
                same(query(c, "SELECT count(*) FROM posts WHERE id = ANY(?)", (Object) c.createArrayOf("bigint", new Object[] {1L, 2L})), List.of("2"));
                same(query(c, "SELECT count(*) FROM posts WHERE id IN (?, ?, ?)", 1, 2, 3), List.of("3"));
                same(query(c, "SELECT upper(?), ? || 'x'", "abc", "y"), List.of("ABC|yx"));
                same(query(c, "SELECT ?::int + 1", 4), List.of("5"));
                PreparedStatement p = c.prepareStatement("SELECT count(*) FROM posts WHERE body = ?");
                p.setNull(1, Types.VARCHAR);
                same(rows(p.executeQuery()), List.of("0"));
            }
        });
        probe("switch_to_server_prepared", () -> {
            try (Connection c = open("prepareThreshold", "3")) {
                PreparedStatement p = c.prepareStatement("SELECT id, body, created_at FROM posts WHERE id = ?");
                for (long at = 1; at < 12; at++) {
                    p.setLong(1, at);
                    ResultSet r = p.executeQuery();
                    holds(r.next(), "no row");
                    same(r.getLong(1), at);
                    same(r.getString(2), "post number " + at);
                    same(r.getTimestamp(3), Timestamp.valueOf(LocalDateTime.of(2026, 1, 1, 0, 0).plusMinutes(at)));
                }
                // The type of the parameter changes: the statement is prepared anew.
                p.setObject(1, new BigDecimal("5"));
                holds(p.executeQuery().next(), "no row");
            }
        });
        probe("prepared_metadata", () -> {
            try (Connection c = open()) {
                PreparedStatement p = c.prepareStatement("SELECT id, body AS words, created_at FROM posts WHERE id = ? AND body = ?");
                ResultSetMetaData m = p.getMetaData();
                same(List.of(m.getColumnCount(), m.getColumnLabel(2), m.getColumnTypeName(1), m.getColumnType(1), m.getColumnTypeName(3)),
                    List.of(3, "words", "int8", Types.BIGINT, "timestamp"));
                ParameterMetaData q = p.getParameterMetaData();
                same(List.of(q.getParameterCount(), q.getParameterTypeName(1), q.getParameterTypeName(2)), List.of(2, "int8", "text"));
            }
        });
        probe("result_metadata", () -> {
            try (Connection c = open()) {
                ResultSetMetaData m = c.createStatement().executeQuery("SELECT id, body, count(*) FROM posts GROUP BY id, body LIMIT 1").getMetaData();
                same(List.of(m.getColumnName(1), m.getColumnTypeName(1), m.getColumnClassName(1), m.getColumnTypeName(2), m.getColumnLabel(3)),
                    List.of("id", "int8", "java.lang.Long", "text", "count"));
                m.isNullable(1);
                m.isAutoIncrement(1);
                m.getTableName(1);
                m.getPrecision(1);
                m.isSigned(1);
            }
        });
        probe("duplicate_names", () -> {
            try (Connection c = open()) {
                same(query(c, "SELECT current_user, session_user"), List.of(user + "|" + user));
                same(query(c, "SELECT NULL, NULL"), List.of("null|null"));
                same(query(c, "SELECT 1, 1"), List.of("1|1"));
            }
        });
        probe("many_results", () -> {
            try (Connection c = open()) {
                Statement s = c.createStatement();
                holds(s.execute("SELECT 1; SELECT 2; SET application_name = 'x'; SELECT 'a;b'"), "no result");
                same(rows(s.getResultSet()), List.of("1"));
                holds(s.getMoreResults(), "no second");
                same(rows(s.getResultSet()), List.of("2"));
                holds(!s.getMoreResults() && s.getUpdateCount() == 0, "SET has a result");
                holds(s.getMoreResults(), "no fourth");
                same(rows(s.getResultSet()), List.of("a;b"));
                same(s.execute(""), false);
            }
        });
        probe("errors", () -> {
            try (Connection c = open()) {
                for (String[] one : new String[][] {{"42P01", "SELECT * FROM nope"}, {"42703", "SELECT nope FROM posts"}, {"42601", "SELEC 1"},
                        {"22012", "SELECT 1 / (id - id) FROM posts"}, {"22P02", "SELECT CAST(body AS BIGINT) FROM posts"}, {"42883", "SELECT nope(1)"}}) {
                    SQLException e = refused(one[0], () -> query(c, one[1]));
                    holds(e instanceof org.postgresql.util.PSQLException, "not the driver's");
                }
                var told = ((org.postgresql.util.PSQLException) refused("42P01", () -> query(c, "SELECT * FROM nope"))).getServerErrorMessage();
                same(told.getPosition(), 15);
                same(told.getSeverity(), "ERROR");
                same(query(c, "SELECT 1"), List.of("1"));
            }
        });
        probe("warnings", () -> {
            try (Connection c = open(); Statement s = c.createStatement()) {
                s.execute("DROP TABLE IF EXISTS never_there");
                SQLWarning w = s.getWarnings();
                holds(w != null && w.getMessage().contains("never_there"), "no warning: " + w);
            }
        });
        probe("escapes", () -> {
            try (Connection c = open()) {
                same(query(c, "SELECT {fn ucase('a')}, {d '2026-01-02'}, {ts '2026-01-02 03:04:05'}"), List.of("A|2026-01-02|2026-01-02 03:04:05"));
            }
        });
    }

    static void types() {
        for (String binary : new String[] {"false", "true"}) {
            probe("values_binary_" + binary, () -> {
                try (Connection c = open("binaryTransfer", binary, "prepareThreshold", "1")) {
                    PreparedStatement p = c.prepareStatement("SELECT CAST(-7 AS SMALLINT), CAST(7 AS INT), CAST(-9 AS BIGINT), CAST(1.5 AS REAL), CAST('0.1' AS DOUBLE PRECISION), "
                        + "CAST('1234567.890' AS NUMERIC(12,3)), 'é😀', decode('00ff', 'hex'), true, DATE '2026-02-28', CAST('01:02:03' AS TIME), "
                        + "TIMESTAMP '2026-02-03 04:05:06.789012', CAST('2026-02-03 04:05:06+02:00' AS TIMESTAMP WITH TIME ZONE), NULL");
                    for (int round = 0; round < 3; round++) {
                        ResultSet r = p.executeQuery();
                        r.next();
                        same(List.of(r.getShort(1), r.getInt(2), r.getLong(3), r.getFloat(4), r.getDouble(5)), List.of((short) -7, 7, -9L, 1.5f, 0.1));
                        same(r.getBigDecimal(6), new BigDecimal("1234567.890"));
                        same(r.getString(7), "é😀");
                        same(r.getBytes(8), new byte[] {0, (byte) 255});
                        same(r.getBoolean(9), true);
                        same(r.getObject(10, LocalDate.class), LocalDate.of(2026, 2, 28));
                        same(r.getObject(11, LocalTime.class), LocalTime.of(1, 2, 3));
                        same(r.getObject(12, LocalDateTime.class), LocalDateTime.of(2026, 2, 3, 4, 5, 6, 789012000));
                        same(r.getObject(13, OffsetDateTime.class).toInstant(), Instant.parse("2026-02-03T02:05:06Z"));
                        same(r.getTimestamp(13).toInstant(), Instant.parse("2026-02-03T02:05:06Z"));
                        same(r.getObject(14), null);
                        for (int at = 1; at <= 14; at++) r.getObject(at);
                    }
                }
            });
        }
        probe("arrays", () -> {
            try (Connection c = open("prepareThreshold", "1")) {
                PreparedStatement p = c.prepareStatement("SELECT ARRAY[1, 2, NULL], ARRAY['a b', NULL, 'c\"d'], ARRAY[ARRAY[1, 2], ARRAY[3, 4]]");
                for (int round = 0; round < 3; round++) {
                    ResultSet r = p.executeQuery();
                    r.next();
                    same(Arrays.toString((Object[]) r.getArray(1).getArray()), "[1, 2, null]");
                    same(r.getArray(2).getArray(), new String[] {"a b", null, "c\"d"});
                    same(Arrays.deepToString((Object[]) r.getArray(3).getArray()), "[[1, 2], [3, 4]]");
                }
            }
        });
        probe("struct_and_interval", () -> {
            try (Connection c = open("prepareThreshold", "1")) {
                PreparedStatement p = c.prepareStatement("SELECT INTERVAL '1 day 2 hours', " + (oracle ? "ROW(1, CAST('x y' AS TEXT))" : "named_struct('a', 1, 'b', 'x y')"));
                for (int round = 0; round < 3; round++) {
                    ResultSet r = p.executeQuery();
                    r.next();
                    var interval = (org.postgresql.util.PGInterval) r.getObject(1);
                    same(List.of(interval.getDays(), interval.getHours()), List.of(1, 2));
                    same(r.getObject(2).toString(), "(1,\"x y\")");
                    same(r.getString(2), "(1,\"x y\")");
                    same(r.getMetaData().getColumnTypeName(2), "record");
                }
            }
        });
        probe("uuid_and_json", () -> {
            try (Connection c = open()) {
                ResultSet r = c.createStatement().executeQuery("SELECT CAST('0191b2c3-d4e5-7000-8000-00000000000a' AS UUID), CAST('{\"a\": 1}' AS JSON)");
                r.next();
                same(r.getObject(1).toString(), "0191b2c3-d4e5-7000-8000-00000000000a");
                same(r.getObject(2).toString().replace(" ", ""), "{\"a\":1}");
            }
        });
        probe("verdict", true, () -> {
            try (Connection c = open()) {
                ResultSet r = c.createStatement().executeQuery("SELECT safeguard_verdict('hate', 'a walk to the sea') AS v, safeguard_classify('hate', 'a walk to the sea') AS l");
                r.next();
                holds(r.getObject("v").toString().startsWith("(" + r.getString("l") + ","), r.getObject("v").toString());
            }
        });
        probe("parameters_of_every_type", () -> {
            try (Connection c = open("prepareThreshold", "2")) {
                c.createStatement().execute("DELETE FROM kinds");
                PreparedStatement p = c.prepareStatement("INSERT INTO kinds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
                for (int round = 0; round < 5; round++) {
                    p.setShort(1, (short) -7);
                    p.setInt(2, 7);
                    p.setLong(3, -9);
                    p.setFloat(4, 1.5f);
                    p.setDouble(5, 0.1);
                    p.setBigDecimal(6, new BigDecimal("12.345"));
                    p.setString(7, "é😀");
                    p.setBytes(8, new byte[] {0, (byte) 255});
                    p.setBoolean(9, true);
                    p.setObject(10, LocalDate.of(2026, 2, 28));
                    p.setObject(11, LocalTime.of(1, 2, 3));
                    p.setObject(12, LocalDateTime.of(2026, 2, 3, 4, 5, 6, 7000));
                    p.setObject(13, OffsetDateTime.parse("2026-02-03T04:05:06.000007Z"));
                    same(p.executeUpdate(), 1);
                }
                for (int at = 1; at <= 13; at++) p.setNull(at, Types.NULL);
                same(p.executeUpdate(), 1);
                try (Connection d = open("options", "-c TimeZone=UTC"); Statement s = d.createStatement()) {
                    s.execute("SET TIME ZONE 'UTC'");
                    List<String> found = rows(s.executeQuery("SELECT DISTINCT i2, i4, i8, f4, f8, n, t, b, ok, d, tm, ts, tz FROM kinds WHERE i2 IS NOT NULL"));
                    same(found, List.of("-7|7|-9|1.5|0.1|12.345|é😀|\\x00ff|t|2026-02-28|01:02:03|2026-02-03 04:05:06.000007|2026-02-03 04:05:06.000007+00"));
                    same(rows(s.executeQuery("SELECT count(*), count(i2) FROM kinds")), List.of("6|5"));
                }
                c.createStatement().execute("DELETE FROM kinds");
            }
        });
        probe("big_rows", () -> {
            try (Connection c = open()) {
                String text = "é".repeat(500_000);
                ResultSet r = c.createStatement().executeQuery("SELECT repeat('0123456789abcdef', 65536)");
                r.next();
                same(r.getString(1).length(), 1048576);
                same(query(c, "SELECT ?::text", text).get(0).equals(text), true);
                StringJoiner columns = new StringJoiner(", ", "SELECT ", " FROM posts WHERE id = 1");
                for (int at = 0; at < 200; at++) columns.add("id + " + at + " AS c" + at);
                r = c.createStatement().executeQuery(columns.toString());
                r.next();
                same(r.getLong("c199"), 200L);
            }
        });
    }

    static void streams() {
        probe("fetch_size", () -> {
            try (Connection c = open()) {
                c.setAutoCommit(false);
                for (int size : new int[] {1, 100, 19999, 20000, 20001}) {
                    PreparedStatement s = c.prepareStatement("SELECT id FROM posts WHERE id > ? ORDER BY id");
                    s.setLong(1, size == 1 ? 19950 : 0);
                    s.setFetchSize(size);
                    ResultSet r = s.executeQuery();
                    long last = size == 1 ? 19950 : 0;
                    while (r.next()) same(r.getLong(1), ++last);
                    same(last, 20000L, "fetch size " + size);
                }
                // Two portals, each read in turns.
                Statement one = c.createStatement(), two = c.createStatement();
                one.setFetchSize(10);
                two.setFetchSize(7);
                ResultSet r = one.executeQuery("SELECT id FROM posts ORDER BY id"), q = two.executeQuery("SELECT id FROM posts ORDER BY id DESC");
                for (int at = 1; at < 100; at++) {
                    r.next();
                    q.next();
                    same(List.of(r.getLong(1), q.getLong(1)), List.of((long) at, 20001L - at));
                }
                r.close();
                q.close();
                c.commit();
                same(query(c, "SELECT 1"), List.of("1"));
                c.commit();
            }
        });
        probe("max_rows", () -> {
            try (Connection c = open(); Statement s = c.createStatement()) {
                s.setMaxRows(5);
                same(rows(s.executeQuery("SELECT id FROM posts ORDER BY id")), List.of("1", "2", "3", "4", "5"));
                same(query(c, "SELECT 1"), List.of("1"));
            }
        });
        probe("error_between_fetches", () -> {
            try (Connection c = open()) {
                c.setAutoCommit(false);
                Statement s = c.createStatement();
                s.setFetchSize(100);
                refused("22012", () -> {
                    ResultSet r = s.executeQuery("SELECT 100 / (15000 - id) FROM posts ORDER BY id");
                    while (r.next()) { }
                });
                refused("25P02", () -> query(c, "SELECT 1"));
                c.rollback();
                same(query(c, "SELECT 1"), List.of("1"));
            }
        });
        probe("scrollable", () -> {
            try (Connection c = open(); Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_READ_ONLY)) {
                ResultSet r = s.executeQuery("SELECT id FROM posts ORDER BY id LIMIT 10");
                holds(r.last() && r.getLong(1) == 10 && r.first() && r.getLong(1) == 1 && r.absolute(5) && r.getLong(1) == 5, "scroll");
            }
        });
        probe("query_timeout", () -> {
            try (Connection c = open(); Statement s = c.createStatement()) {
                s.setQueryTimeout(1);
                long began = System.nanoTime();
                refused("57014", () -> s.executeQuery(slow("jdbc timeout")));
                holds(System.nanoTime() - began < 1_000_000_000L + STOP_NANOS, "took " + (System.nanoTime() - began) / 1e9 + " s");
                same(query(c, "SELECT 1"), List.of("1"));
                PreparedStatement p = c.prepareStatement(slow("jdbc prepared") + " WHERE 1 = ?");
                p.setInt(1, 1);
                p.setQueryTimeout(1);
                refused("57014", p::executeQuery);
                same(query(c, "SELECT 1"), List.of("1"));
            }
        });
        probe("cancel", () -> {
            try (Connection c = open(); Statement s = c.createStatement()) {
                long[] asked = new long[1];
                Timer timer = new Timer(true);
                timer.schedule(new TimerTask() {
                    public void run() {
                        try { asked[0] = System.nanoTime(); s.cancel(); } catch (SQLException e) { throw new RuntimeException(e); }
                    }
                }, 500);
                refused("57014", () -> s.executeQuery(slow("jdbc cancel")));
                holds(System.nanoTime() - asked[0] < STOP_NANOS, "ended late");
                same(query(c, "SELECT count(*) FROM posts"), List.of("20000"));
            }
        });
        probe("copy_in_and_out", () -> {
            try (Connection c = open()) {
                c.createStatement().execute("DELETE FROM lab");
                var copy = c.unwrap(org.postgresql.PGConnection.class).getCopyAPI();
                same(copy.copyIn("COPY lab FROM STDIN (FORMAT csv)", new java.io.StringReader("1,one\n2,\n3,\"a,\"\"b\"\n")), 3L);
                var out = new java.io.StringWriter();
                same(copy.copyOut("COPY (SELECT * FROM lab ORDER BY id) TO STDOUT (FORMAT csv, HEADER)", out), 3L);
                same(out.toString(), "id,label\n1,one\n2,\n3,\"a,\"\"b\"\n");
                var bytes = new java.io.ByteArrayOutputStream();
                copy.copyOut("COPY lab TO STDOUT (FORMAT binary)", bytes);
                same(copy.copyIn("COPY lab FROM STDIN (FORMAT binary)", new java.io.ByteArrayInputStream(bytes.toByteArray())), 3L);
                for (String form : oracle ? new String[0] : new String[] {"text", "csv", "binary"}) {
                    String many = "COPY (SELECT id, body FROM posts ORDER BY id) TO STDOUT (FORMAT " + form;
                    var one = new java.io.ByteArrayOutputStream();
                    same(copy.copyOut(many + ")", one), 20000L);
                    var gathered = new java.io.ByteArrayOutputStream();
                    same(copy.copyOut(many + ", GATHER)", gathered), 20000L);
                    same(java.util.Arrays.equals(one.toByteArray(), gathered.toByteArray()), true);
                    try (var stream = new org.postgresql.copy.PGCopyInputStream((org.postgresql.PGConnection) c, many + ", GATHER)")) {
                        same(java.util.Arrays.equals(one.toByteArray(), stream.readAllBytes()), true);
                    }
                }
                refused("22P02", () -> copy.copyIn("COPY lab FROM STDIN", new java.io.StringReader("x\ty\n")));
                same(query(c, "SELECT count(*) FROM lab"), List.of("6"));
                c.createStatement().execute("DELETE FROM lab");
            }
        });
    }

    static void writes() {
        probe("update_counts", () -> {
            try (Connection c = open(); Statement s = c.createStatement()) {
                s.executeUpdate("DROP TABLE IF EXISTS jdbc_made");
                same(s.executeUpdate("CREATE TABLE jdbc_made (a BIGINT, b TEXT)"), 0);
                same(s.executeUpdate("INSERT INTO jdbc_made VALUES (1, 'x'), (2, 'y')"), 2);
                same(s.executeUpdate("INSERT INTO jdbc_made SELECT id, body FROM posts WHERE id < 10"), 9);
                same(s.executeUpdate("UPDATE jdbc_made SET b = 'z' WHERE a < 3"), 4);
                same(s.executeLargeUpdate("DELETE FROM jdbc_made WHERE a = 2"), 2L);
                same(rows(s.executeQuery("SELECT count(*) FROM jdbc_made WHERE b LIKE 'post%' OR b = 'z'")), List.of("9"));
                same(s.executeUpdate("DROP TABLE jdbc_made"), 0);
            }
        });
        for (String rewrite : new String[] {"false", "true"}) {
            probe("batch_counts_rewritten_" + rewrite, () -> {
                try (Connection c = open("reWriteBatchedInserts", rewrite)) {
                    c.createStatement().execute("DELETE FROM lab");
                    PreparedStatement p = c.prepareStatement("INSERT INTO lab VALUES (?, ?)");
                    for (int at = 0; at < 50; at++) {
                        p.setLong(1, at);
                        if (at % 10 == 0) p.setNull(2, Types.VARCHAR); else p.setString(2, "x" + at);
                        p.addBatch();
                    }
                    int[] counts = p.executeBatch();
                    same(counts.length, 50);
                    for (int count : counts) holds(count == (rewrite.equals("true") ? Statement.SUCCESS_NO_INFO : 1) || count == 1, "count " + count);
                    same(query(c, "SELECT count(*), count(label) FROM lab"), List.of("50|45"));
                    same(query(c, "SELECT count(*) FROM lab WHERE label LIKE ?", "x1%"), List.of("10"));
                    Statement s = c.createStatement();
                    s.addBatch("UPDATE lab SET label = 'y' WHERE id < 5");
                    s.addBatch("DELETE FROM lab WHERE label = 'y'");
                    same(s.executeBatch(), new int[] {5, 5});
                    c.createStatement().execute("DELETE FROM lab");
                }
            });
        }
        probe("batch_error", () -> {
            try (Connection c = open(); Statement s = c.createStatement()) {
                s.addBatch("DELETE FROM lab");
                s.addBatch("SELECT nope FROM posts");
                refused("42703", s::executeBatch);
                same(query(c, "SELECT 1"), List.of("1"));
            }
        });
        probe("generated_keys", () -> {
            try (Connection c = open()) {
                worksOrRefused(() -> {
                    PreparedStatement p = c.prepareStatement("INSERT INTO lab VALUES (9, 'g')", Statement.RETURN_GENERATED_KEYS);
                    same(p.executeUpdate(), 1);
                    same(rows(p.getGeneratedKeys(), "id"), List.of("9"));
                });
                c.createStatement().execute("DELETE FROM lab");
            }
        });
        probe("callable", () -> {
            try (Connection c = open()) {
                CallableStatement k = c.prepareCall("{? = call upper(?)}");
                k.registerOutParameter(1, Types.VARCHAR);
                k.setString(2, "abc");
                k.execute();
                same(k.getString(1), "ABC");
            }
        });
    }

    static void sessions() {
        probe("transactions", () -> {
            try (Connection c = open()) {
                c.setAutoCommit(false);
                query(c, "SELECT 1");
                Savepoint s = c.setSavepoint("one");
                refused("42703", () -> query(c, "SELECT nope FROM posts"));
                refused("25P02", () -> query(c, "SELECT 1"));
                c.rollback(s);
                same(query(c, "SELECT 2"), List.of("2"));
                c.releaseSavepoint(s);
                c.commit();
                c.setAutoCommit(true);
                same(query(c, "SELECT 3"), List.of("3"));
            }
        });
        probe("autosave", () -> {
            try (Connection c = open("autosave", "always")) {
                c.setAutoCommit(false);
                query(c, "SELECT 1");
                refused("22012", () -> query(c, "SELECT 1 / (id - id) FROM posts"));
                same(query(c, "SELECT 2"), List.of("2"));
                c.commit();
            }
        });
        probe("read_only_and_isolation", () -> {
            try (Connection c = open()) {
                same(c.getTransactionIsolation(), Connection.TRANSACTION_READ_COMMITTED);
                c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
                same(c.getTransactionIsolation(), Connection.TRANSACTION_SERIALIZABLE);
                c.setReadOnly(true);
                c.setAutoCommit(false);
                refused("25006", () -> c.createStatement().executeUpdate("INSERT INTO lab VALUES (1, 'x')"));
                c.rollback();
                c.setReadOnly(false);
            }
            try (Connection c = open("readOnly", "true", "readOnlyMode", "always")) {
                refused("25006", () -> c.createStatement().executeUpdate("INSERT INTO lab VALUES (1, 'x')"));
            }
        });
        probe("rollback_warns", true, () -> {
            try (Connection c = open(); Statement s = c.createStatement()) {
                s.execute("BEGIN");
                s.execute("INSERT INTO lab VALUES (1, 'x')");
                s.execute("ROLLBACK");
                holds(s.getWarnings() != null, "no warning");
                s.execute("DELETE FROM lab");
            }
        });
        probe("client_info", () -> {
            try (Connection c = open("ApplicationName", "from java")) {
                same(query(c, "SHOW application_name"), List.of("from java"));
                c.setClientInfo("ApplicationName", "renamed");
                same(query(c, "SHOW application_name"), List.of("renamed"));
                c.setSchema("public");
                same(c.getSchema(), "public");
                c.setNetworkTimeout(Runnable::run, 30000);
            }
        });
        probe("aborted", () -> {
            Connection c = open();
            Thread t = new Thread(() -> { try { query(c, slow("jdbc abort")); } catch (SQLException e) { } });
            t.start();
            t.join(500);
            c.abort(Runnable::run);
            t.join(5000);
            holds(!t.isAlive(), "still waits");
            try (Connection d = open()) { same(query(d, "SELECT 1"), List.of("1")); }
        });
    }

    static void metadata() {
        try (Connection c = open()) {
            DatabaseMetaData m = c.getMetaData();
            probe("metadata_schemas", () -> holds(rows(m.getSchemas(), "TABLE_SCHEM").contains("public"), "no public"));
            probe("metadata_catalogs", () -> holds(rows(m.getCatalogs(), "TABLE_CAT").contains(db), "no " + db));
            probe("metadata_tables", () -> {
                List<String> found = rows(m.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME", "TABLE_TYPE");
                holds(found.containsAll(List.of("posts|TABLE", "kinds|TABLE", "lab|TABLE")), found.toString());
                same(rows(m.getTables(null, "public", "pos%", null), "TABLE_NAME"), List.of("posts"));
                holds(rows(m.getTables(null, null, "%", null), "TABLE_NAME").size() > 50, "few tables");
                same(rows(m.getTables(null, "nope", "%", null), "TABLE_NAME"), List.of());
            });
            probe("metadata_table_types", () -> holds(rows(m.getTableTypes()).contains("TABLE"), "no TABLE"));
            probe("metadata_columns", () -> {
                same(rows(m.getColumns(null, "public", "posts", "%"), "COLUMN_NAME", "DATA_TYPE", "TYPE_NAME", "NULLABLE", "ORDINAL_POSITION"),
                    List.of("id|-5|int8|1|1", "author|-5|int8|1|2", "body|12|text|1|3", "created_at|93|timestamp|1|4"));
                same(rows(m.getColumns(null, null, "kinds", "n"), "TYPE_NAME", "COLUMN_SIZE", "DECIMAL_DIGITS"), List.of("numeric|12|3"));
                same(rows(m.getColumns(null, null, "kinds", "%"), "TYPE_NAME"), List.of("int2", "int4", "int8", "float4", "float8", "numeric", "text", "bytea", "bool", "date", "time", "timestamp", "timestamptz"));
            });
            probe("metadata_primary_keys", () -> same(rows(m.getPrimaryKeys(null, "public", "posts")), List.of()));
            probe("metadata_imported_keys", () -> same(rows(m.getImportedKeys(null, "public", "posts")), List.of()));
            probe("metadata_exported_keys", () -> same(rows(m.getExportedKeys(null, "public", "posts")), List.of()));
            probe("metadata_index_info", () -> same(rows(m.getIndexInfo(null, "public", "posts", false, false)), List.of()));
            probe("metadata_best_row", () -> same(rows(m.getBestRowIdentifier(null, "public", "posts", 0, true)), List.of()));
            probe("metadata_type_info", () -> {
                List<String> found = rows(m.getTypeInfo(), "TYPE_NAME");
                holds(found.containsAll(List.of("int4", "int8", "text", "bool", "timestamptz", "numeric")), found.toString());
            });
            probe("metadata_functions", () -> holds(rows(m.getFunctions(null, null, "lower"), "FUNCTION_NAME").contains("lower"), "no lower"));
            probe("metadata_our_functions", true, () -> {
                List<String> found = rows(m.getFunctions(null, null, "safeguard%"), "FUNCTION_NAME");
                holds(found.containsAll(List.of("safeguard_classify", "safeguard_verdict", "safeguard_score")), found.toString());
            });
            probe("metadata_function_columns", () -> rows(m.getFunctionColumns(null, null, "lower", "%")));
            probe("metadata_procedures", () -> rows(m.getProcedures(null, null, "%")));
            probe("metadata_procedure_columns", () -> rows(m.getProcedureColumns(null, null, "nope", "%")));
            probe("metadata_privileges", () -> { rows(m.getTablePrivileges(null, "public", "posts")); rows(m.getColumnPrivileges(null, "public", "posts", "%")); });
            probe("metadata_user_types", () -> rows(m.getUDTs(null, null, "%", null)));
            probe("metadata_words", () -> {
                holds(m.getSQLKeywords().length() > 100, "few keywords");
                holds(m.getMaxColumnNameLength() >= 63, "short names");
                same(m.getIdentifierQuoteString(), "\"");
                m.getStringFunctions();
                m.getClientInfoProperties();
                m.getMaxConnections();
                m.getDefaultTransactionIsolation();
            });
            probe("metadata_views", () -> {
                try (Statement s = c.createStatement()) {
                    s.execute("DROP VIEW IF EXISTS jdbc_view");
                    s.execute("CREATE VIEW jdbc_view AS SELECT id FROM posts");
                    same(rows(m.getTables(null, "public", "jdbc%", new String[] {"VIEW"}), "TABLE_NAME", "TABLE_TYPE"), List.of("jdbc_view|VIEW"));
                    s.execute("DROP VIEW jdbc_view");
                }
            });
        } catch (SQLException e) {
            probe("metadata_connection", () -> { throw e; });
        }
    }
}
