import java.sql.*;
import java.util.Properties;

/** Reads every row of a query through pgJDBC: HOST PORT FETCH_SIZE QUERY; prints the rows and the seconds. */
class JdbcRows {
    public static void main(String[] a) throws Exception {
        Properties p = new Properties();
        p.setProperty("user", "postgres");
        try (Connection c = DriverManager.getConnection("jdbc:postgresql://" + a[0] + ":" + a[1] + "/postgres", p)) {
            c.setAutoCommit(false);
            Statement s = c.createStatement();
            s.setFetchSize(Integer.parseInt(a[2]));
            long began = System.nanoTime(), rows = 0, sum = 0;
            ResultSet r = s.executeQuery(a[3]);
            while (r.next()) {
                rows++;
                sum += r.getLong(1) + r.getInt(2) + r.getString(3).length();
            }
            System.out.println(rows + " " + (System.nanoTime() - began) / 1e9 + " " + sum);
        }
    }
}
