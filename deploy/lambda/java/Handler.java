import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Map;
import java.util.function.LongSupplier;

/**
 * A Lambda function in Java with pgjdbc, through pgweir: one connection for each environment, and no query outlives its invocation.
 *
 * <p>In Lambda, {@code handleRequest(Map<String, Object> event, Context context)} is {@code handle(event, context::getRemainingTimeInMillis)}.
 */
public class Handler {
    private static Connection connection;

    /** The environment's connection, opened when it is first needed and again when it was lost. */
    private static Connection database() throws SQLException {
        if (connection == null || connection.isClosed()) {
            connection = DriverManager.getConnection(System.getenv("JDBC_DATABASE_URL"));
        }
        return connection;
    }

    /** The one line: pgweir cancels what runs, and undoes it, when the invocation's time is nearly over. PostgreSQL itself takes it for a setting. */
    private static void withinTime(Connection db, LongSupplier remainingMillis) throws SQLException {
        try (Statement statement = db.createStatement()) {
            statement.execute("SET pgweir.deadline_ms = " + Math.max(1, remainingMillis.getAsLong() - 200));
        }
    }

    /** The connection, once more if it turns out to be lost before anything was begun. */
    private static Connection ready(LongSupplier remainingMillis) throws SQLException {
        try {
            withinTime(database(), remainingMillis);
        } catch (SQLException lost) {
            connection = null;
            withinTime(database(), remainingMillis);
        }
        return connection;
    }

    public Map<String, Object> handle(Map<String, Object> event, LongSupplier remainingMillis) throws SQLException {
        try (PreparedStatement statement = ready(remainingMillis).prepareStatement("SELECT ?::int + 1, pg_sleep(?)")) {
            statement.setInt(1, ((Number) event.get("number")).intValue());
            statement.setDouble(2, ((Number) event.getOrDefault("sleep", 0)).doubleValue());
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                return Map.of("answer", rows.getInt(1));
            }
        }
    }
}
