// The matrix's script through pgjdbc. Run as a single source file: java -cp postgresql.jar:... CheckJdbc.java

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.net.URI;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

public class CheckJdbc {
    static final String TABLE = "check_jdbc";
    static final int SESSIONS = 12;
    static final String SLEEPERS = "SELECT count(*) FROM pg_stat_activity"
        + " WHERE state = 'active' AND query LIKE '%* " + TABLE + " sleeps *%' AND pid <> pg_backend_pid()";
    static final long DEADLINE_SECONDS = 90;
    static int concurrency = 200;

    interface Check {
        void run() throws Exception;
    }

    interface Work {
        void with(Connection connection) throws Exception;
    }

    static class Skip extends Exception {
        Skip(String reason) {
            super(reason);
        }
    }

    static Connection connect() throws SQLException {
        URI url = URI.create(System.getenv("DATABASE_URL"));
        String[] login = url.getUserInfo().split(":", 2);
        Properties properties = new Properties();
        properties.setProperty("user", login[0]);
        properties.setProperty("password", login[1]);
        properties.setProperty("connectTimeout", "60");
        properties.setProperty("loginTimeout", "60");
        String authority = System.getenv("PGSSLROOTCERT");
        properties.setProperty("sslmode", authority == null ? "disable" : "verify-full");
        if (authority != null) {
            properties.setProperty("sslrootcert", authority);
        }
        return DriverManager.getConnection("jdbc:postgresql://" + url.getHost() + ":" + url.getPort() + url.getPath(), properties);
    }

    static void connected(Work work) throws Exception {
        try (Connection connection = connect()) {
            work.with(connection);
        }
    }

    static void equal(Object found, Object expected) {
        if (!Objects.deepEquals(found, expected)) {
            String words = "expected " + expected + ", found " + found;
            throw new AssertionError(words.substring(0, Math.min(words.length(), 400)));
        }
    }

    static void fails(String code, Check work) throws Exception {
        try {
            work.run();
        } catch (SQLException error) {
            equal(error.getSQLState(), code);
            return;
        }
        throw new AssertionError(code + " was expected");
    }

    static int execute(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int at = 0; at < values.length; at++) {
                statement.setObject(at + 1, values[at]);
            }
            statement.execute();
            return statement.getUpdateCount();
        }
    }

    static <T> T value(Connection connection, Class<T> type, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int at = 0; at < values.length; at++) {
                statement.setObject(at + 1, values[at]);
            }
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                return type == byte[].class ? type.cast(rows.getBytes(1)) : rows.getObject(1, type);
            }
        }
    }

    static void crud(Connection connection) throws Exception {
        execute(connection, "DROP TABLE IF EXISTS " + TABLE);
        execute(connection, "CREATE TABLE " + TABLE + " (id int PRIMARY KEY, note text)");
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO " + TABLE + " VALUES (?, ?)")) {
            for (int id = 0; id < 10; id++) {
                insert.setInt(1, id);
                insert.setString(2, "note " + id);
                insert.addBatch();
            }
            equal(insert.executeBatch().length, 10);
        }
        equal(execute(connection, "UPDATE " + TABLE + " SET note = ? WHERE id < ?", "changed", 5), 5);
        equal(execute(connection, "DELETE FROM " + TABLE + " WHERE id = ?", 9), 1);
        equal(value(connection, String.class, "SELECT string_agg(id::text, ',' ORDER BY id) FROM " + TABLE + " WHERE note = ?", "changed"),
            "0,1,2,3,4");
    }

    static void parameters(Connection connection) throws Exception {
        byte[] bytes = new byte[256];
        for (int at = 0; at < bytes.length; at++) {
            bytes[at] = (byte) at;
        }
        UUID id = new UUID(0, 7);
        OffsetDateTime moment = OffsetDateTime.parse("2026-02-28T12:30:00Z");
        // Often enough to go over to binary results and a named statement.
        for (int round = 0; round < 8; round++) {
            equal(value(connection, Integer.class, "SELECT ?::int4", 42), 42);
            equal(value(connection, Long.class, "SELECT ?::int8", (1L << 53) + 1), (1L << 53) + 1);
            equal(value(connection, Double.class, "SELECT ?::float8", 1.5), 1.5);
            equal(value(connection, BigDecimal.class, "SELECT ?::numeric", new BigDecimal("12345.6789")), new BigDecimal("12345.6789"));
            equal(value(connection, String.class, "SELECT ?::text", "Gr\u00fc\u00dfe, \u4e16\u754c"), "Gr\u00fc\u00dfe, \u4e16\u754c");
            equal(value(connection, Boolean.class, "SELECT ?::bool", true), true);
            equal(value(connection, byte[].class, "SELECT ?::bytea", (Object) bytes), bytes);
            equal(value(connection, UUID.class, "SELECT ?::uuid", id), id);
            equal(value(connection, OffsetDateTime.class, "SELECT ?::timestamptz", moment).toInstant(), moment.toInstant());
            equal(value(connection, String.class, "SELECT ?::jsonb->>'a'", "{\"a\": \"b\"}"), "b");
            equal(value(connection, String.class, "SELECT (?::int4[])[2]::text", connection.createArrayOf("int4", new Object[] {1, 2, null})), "2");
            equal(value(connection, String.class, "SELECT ?::text", (Object) null), null);
        }
    }

    static void transactions(Connection connection) throws Exception {
        long before = value(connection, Long.class, "SELECT count(*) FROM " + TABLE);
        connection.setAutoCommit(false);
        execute(connection, "INSERT INTO " + TABLE + " VALUES (?, 'kept')", 100);
        connection.commit();
        execute(connection, "INSERT INTO " + TABLE + " VALUES (?, 'dropped')", 101);
        connection.rollback();
        connection.setAutoCommit(true);
        equal(value(connection, Long.class, "SELECT count(*) FROM " + TABLE), before + 1);
    }

    static void errorInTransaction(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        execute(connection, "INSERT INTO " + TABLE + " VALUES (102, 'dropped')");
        fails("22012", () -> value(connection, Integer.class, "SELECT 1 / ?::int", 0));
        fails("25P02", () -> value(connection, Integer.class, "SELECT 1"));
        connection.rollback();
        equal(value(connection, Long.class, "SELECT count(*) FROM " + TABLE + " WHERE id = 102"), 0L);
        connection.commit();
    }

    static void errorCodes(Connection connection) throws Exception {
        fails("23505", () -> execute(connection, "INSERT INTO " + TABLE + " VALUES (?, 'again')", 1));
        fails("42P01", () -> execute(connection, "SELECT * FROM no_such_table"));
        fails("22012", () -> execute(connection, "SELECT 1 / 0"));
        equal(value(connection, Integer.class, "SELECT 1"), 1);
    }

    static void multiStatement(Connection connection) throws Exception {
        List<Integer> found = new ArrayList<>();
        try (Statement statement = connection.createStatement()) {
            boolean more = statement.execute("SELECT 1; SELECT 2; SELECT 3");
            while (more) {
                try (ResultSet rows = statement.getResultSet()) {
                    rows.next();
                    found.add(rows.getInt(1));
                }
                more = statement.getMoreResults();
            }
            equal(found, List.of(1, 2, 3));
            fails("22012", () -> statement.execute("SELECT 1; SELECT 1 / 0; SELECT 3"));
        }
        equal(value(connection, Integer.class, "SELECT 4"), 4);
    }

    static void prepared(Connection connection) throws Exception {
        try (PreparedStatement statement = connection.prepareStatement("SELECT ?::int + 1")) {
            for (int number = 0; number < 20; number++) {
                statement.setInt(1, number);
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    equal(rows.getInt(1), number + 1);
                }
            }
        }
    }

    /** More sessions than server connections stay open, each with server-side statements from the first use, and settings of its own. */
    static void sessions() throws Exception {
        List<Connection> all = new ArrayList<>();
        ExecutorService runners = Executors.newFixedThreadPool(SESSIONS);
        try {
            for (int number = 0; number < SESSIONS; number++) {
                Connection connection = connect();
                connection.unwrap(org.postgresql.PGConnection.class).setPrepareThreshold(1);
                all.add(connection);
            }
            List<Future<?>> works = new ArrayList<>();
            for (int number = 0; number < SESSIONS; number++) {
                int own = number;
                works.add(runners.submit(() -> {
                    session(all.get(own), own);
                    return null;
                }));
            }
            for (Future<?> work : works) {
                work.get();
            }
        } finally {
            runners.shutdownNow();
            for (Connection connection : all) {
                connection.close();
            }
        }
    }

    static void session(Connection connection, int own) throws Exception {
        execute(connection, "SET work_mem = '" + (1000 + own) + "kB'");
        value(connection, String.class, "SELECT set_config('app.session', ?, false)", String.valueOf(own));
        try (PreparedStatement adding = connection.prepareStatement("SELECT ?::int + 1");
                PreparedStatement batch = connection.prepareStatement("SELECT set_config('app.batch', ?, false)")) {
            for (int turn = 0; turn < 8; turn++) {
                adding.setInt(1, turn);
                try (ResultSet rows = adding.executeQuery()) {
                    rows.next();
                    equal(rows.getInt(1), turn + 1);
                }
                equal(value(connection, String.class, "SHOW work_mem"), (1000 + own) + "kB");
                equal(value(connection, String.class, "SELECT current_setting('app.session')"), String.valueOf(own));
                if (turn == 4) {
                    fails("22012", () -> value(connection, Integer.class, "SELECT 1 / ?::int", 0));
                }
            }
            batch.setString(1, "set " + own);
            batch.execute();
            equal(value(connection, String.class, "SELECT current_setting('app.batch')"), "set " + own);
        }
    }

    /** A portal that is read in pieces, as setFetchSize does inside a transaction. */
    static void fetchSize(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(100);
            long sum = 0;
            try (ResultSet rows = statement.executeQuery("SELECT generate_series(1, 1000)")) {
                while (rows.next()) {
                    sum += rows.getInt(1);
                }
            }
            equal(sum, 500_500L);
        }
        connection.commit();
    }

    static void copy(Connection connection) throws Exception {
        execute(connection, "TRUNCATE " + TABLE);
        CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder lines = new StringBuilder();
        for (int id = 0; id < 10_000; id++) {
            lines.append(id).append("\trow ").append(id).append('\n');
        }
        equal(copy.copyIn("COPY " + TABLE + " FROM STDIN", new StringReader(lines.toString())), 10_000L);
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        copy.copyOut("COPY (SELECT id FROM " + TABLE + ") TO STDOUT", out);
        equal(Arrays.stream(out.toString().split("\n")).mapToLong(Long::parseLong).sum(), 49_995_000L);
    }

    static void copyError(Connection connection) throws Exception {
        CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
        fails("22P02", () -> copy.copyIn("COPY " + TABLE + " FROM STDIN", new StringReader("not a number\tx\n")));
        equal(value(connection, Integer.class, "SELECT 1"), 1);
    }

    static void cancel(Connection connection) throws Exception {
        ExecutorService other = Executors.newSingleThreadExecutor();
        try (Statement statement = connection.createStatement()) {
            Future<?> cancelling = other.submit(() -> {
                connected(observer -> {
                    while (value(observer, Long.class, SLEEPERS) != 1) {
                        Thread.sleep(50);
                    }
                });
                statement.cancel();
                return null;
            });
            fails("57014", () -> statement.executeQuery("SELECT pg_sleep(60) /* " + TABLE + " sleeps */"));
            cancelling.get();
            statement.setQueryTimeout(1);
            fails("57014", () -> statement.executeQuery("SELECT pg_sleep(60)"));
        } finally {
            other.shutdownNow();
        }
        equal(value(connection, Integer.class, "SELECT 1"), 1);
    }

    static void bigValues(Connection connection) throws Exception {
        String big = "x".repeat(5_000_000);
        equal(value(connection, String.class, "SELECT ?::text", big), big);
        equal(value(connection, String.class, "SELECT repeat('y', 5000000)"), "y".repeat(5_000_000));
    }

    static void notices(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("DO $$ BEGIN RAISE NOTICE 'hear me'; END $$");
            equal(statement.getWarnings().getMessage(), "hear me");
        }
    }

    static void listens(Connection connection) throws Exception {
        PGConnection listener = connection.unwrap(PGConnection.class);
        execute(connection, "LISTEN " + TABLE);
        execute(connection, "NOTIFY " + TABLE + ", 'to myself'");
        equal(payloads(listener.getNotifications()), List.of("to myself"));
        connected(speaker -> {
            speaker.setAutoCommit(false);
            execute(speaker, "NOTIFY " + TABLE + ", 'first'");
            execute(speaker, "NOTIFY " + TABLE + ", 'second'");
            speaker.commit();
        });
        // As its manual says: a question brings what has come.
        equal(value(connection, Integer.class, "SELECT 1"), 1);
        equal(payloads(listener.getNotifications()), List.of("first", "second"));
        execute(connection, "UNLISTEN " + TABLE);
        execute(connection, "NOTIFY " + TABLE);
        equal(payloads(listener.getNotifications()), List.of());
    }

    static List<String> payloads(PGNotification[] notifications) {
        return notifications == null ? List.of() : Arrays.stream(notifications).map(PGNotification::getParameter).toList();
    }

    static void concurrent() throws Exception {
        ExecutorService clients = Executors.newFixedThreadPool(concurrency);
        List<Future<?>> all = new ArrayList<>();
        for (int number = 0; number < concurrency; number++) {
            int id = 100_000 + number;
            all.add(clients.submit(() -> {
                connected(connection -> {
                    connection.setAutoCommit(false);
                    execute(connection, "INSERT INTO " + TABLE + " VALUES (?, ?)", id, "client " + id);
                    equal(value(connection, String.class, "SELECT note FROM " + TABLE + " WHERE id = ?", id), "client " + id);
                    connection.commit();
                });
                return null;
            }));
        }
        for (Future<?> one : all) {
            one.get();
        }
        clients.shutdown();
        connected(connection -> {
            equal(value(connection, Long.class, "SELECT count(*) FROM " + TABLE + " WHERE id >= 100000"), (long) concurrency);
            execute(connection, "DROP TABLE " + TABLE);
        });
    }

    /** What has one client wait, in a session that it keeps, for what another does. */
    static final List<String> NEEDS_TWO = List.of("cancel", "listens");

    static int passed;
    static int failed;
    static int skipped;

    static void check(String name, Check work) {
        ExecutorService runner = Executors.newSingleThreadExecutor(run -> {
            Thread thread = new Thread(run);
            thread.setDaemon(true);
            return thread;
        });
        try {
            runner.submit(() -> {
                if (NEEDS_TWO.contains(name) && System.getenv("ONE_CONNECTION") != null) {
                    throw new Skip("it needs two server connections");
                }
                work.run();
                return null;
            }).get(DEADLINE_SECONDS, TimeUnit.SECONDS);
            passed++;
            System.out.println("ok   " + name);
        } catch (Exception error) {
            Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
            if (cause instanceof Skip) {
                skipped++;
                System.out.println("skip " + name + ": " + cause.getMessage());
            } else {
                failed++;
                String code = cause instanceof SQLException sql ? sql.getSQLState() + " " : "";
                System.out.println("FAIL " + name + ": " + code + String.valueOf(cause).replaceAll("\\s+", " "));
                if (System.getenv("VERBOSE") != null) {
                    cause.printStackTrace();
                }
            }
        } finally {
            runner.shutdownNow();
        }
    }

    static void check(String name, Work work) {
        check(name, (Check) () -> connected(work));
    }

    public static void main(String[] arguments) {
        int flag = Arrays.asList(arguments).indexOf("--concurrent");
        if (flag >= 0) {
            concurrency = Integer.parseInt(arguments[flag + 1]);
        }
        check("crud", (Work) CheckJdbc::crud);
        check("parameters", (Work) CheckJdbc::parameters);
        check("transactions", (Work) CheckJdbc::transactions);
        check("error_in_transaction", (Work) CheckJdbc::errorInTransaction);
        check("error_codes", (Work) CheckJdbc::errorCodes);
        check("multi_statement", (Work) CheckJdbc::multiStatement);
        check("prepared", (Work) CheckJdbc::prepared);
        check("sessions", (Check) CheckJdbc::sessions);
        check("fetch_size", (Work) CheckJdbc::fetchSize);
        check("copy", (Work) CheckJdbc::copy);
        check("copy_error", (Work) CheckJdbc::copyError);
        check("cancel", (Work) CheckJdbc::cancel);
        check("big_values", (Work) CheckJdbc::bigValues);
        check("notices", (Work) CheckJdbc::notices);
        check("listens", (Work) CheckJdbc::listens);
        check("concurrent", (Check) CheckJdbc::concurrent);
        System.out.println(passed + " passed, " + failed + " failed, " + skipped + " skipped");
        System.exit(failed == 0 ? 0 : 1);
    }
}
