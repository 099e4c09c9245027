// The example of a Lambda function in Java, as deploy/lambda has it; its class is on the class path.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Map;
import java.util.function.LongSupplier;

public class CheckLambda {
    static int passed;
    static int failed;
    static int skipped;

    static class Skip extends Exception {
        Skip(String why) {
            super(why);
        }
    }

    interface Check {
        void run() throws Exception;
    }

    static void check(String name, Check check) {
        try {
            check.run();
            passed++;
            System.out.println("ok   " + name);
        } catch (Skip skip) {
            skipped++;
            System.out.println("skip " + name + ": " + skip.getMessage());
        } catch (Exception | AssertionError error) {
            failed++;
            System.out.println("FAIL " + name + ": " + error);
        }
    }

    static LongSupplier lasting(long millis) {
        long end = System.currentTimeMillis() + millis;
        return () -> end - System.currentTimeMillis();
    }

    static void answer(int number) throws SQLException {
        Object answer = new Handler().handle(Map.of("number", number), lasting(30_000)).get("answer");
        if (!answer.equals(number + 1)) {
            throw new AssertionError(answer);
        }
    }

    static Connection other() throws SQLException {
        return DriverManager.getConnection(System.getenv("JDBC_DATABASE_URL"));
    }

    static void survivesALostConnection() throws SQLException {
        try (Connection db = other(); Statement statement = db.createStatement()) {
            statement.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()");
        }
        answer(2);
    }

    static void endsWithItsTime() throws Exception {
        try (Connection db = other(); Statement statement = db.createStatement()) {
            statement.execute("SET pgweir.deadline_ms = 60000");
            boolean isDirect = true;
            try {
                statement.execute("SHOW pgweir.deadline_ms");
            } catch (SQLException unknown) {
                isDirect = false;
            }
            if (isDirect) {
                throw new Skip("no proxy in the way");
            }
        }
        long began = System.currentTimeMillis();
        try {
            new Handler().handle(Map.of("number", 1, "sleep", 30), lasting(1_000));
            throw new AssertionError("it was not cancelled");
        } catch (SQLException cancelled) {
            if (!"57014".equals(cancelled.getSQLState()) || System.currentTimeMillis() - began > 10_000) {
                throw cancelled;
            }
        }
        answer(3);
    }

    public static void main(String[] arguments) {
        check("answers", () -> {
            answer(41);
            answer(1);
        });
        check("survives_a_lost_connection", CheckLambda::survivesALostConnection);
        check("ends_with_its_time", CheckLambda::endsWithItsTime);
        System.out.printf("%d passed, %d failed, %d skipped%n", passed, failed, skipped);
        System.exit(failed == 0 ? 0 : 1);
    }
}
