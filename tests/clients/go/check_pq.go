package main

// The matrix's script through database/sql and lib/pq.

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
)

const (
	table       = "check_pq"
	sessionsMax = 12
)

func main() {
	run([]check{
		{"crud", crud}, {"parameters", parameters}, {"transactions", transactions}, {"error_in_transaction", errorInTransaction},
		{"error_codes", errorCodes}, {"multi_statement", multiStatement}, {"prepared", prepared}, {"sessions", sessions},
		{"copy", copyRows}, {"copy_error", copyError}, {"cancel", cancelled}, {"big_values", bigValues}, {"answers_of_every_size", everySize},
		{"listens", listens}, {"concurrent", concurrent},
	})
}

// One session of its own.
func connected(ctx context.Context, work func(*sql.Conn) error) error {
	database, err := sql.Open("postgres", url())
	if err != nil {
		return err
	}
	defer database.Close()
	connection, err := database.Conn(ctx)
	if err != nil {
		return err
	}
	defer connection.Close()
	return work(connection)
}

// Runs a statement; the answer must be this one value, as text.
func gives(ctx context.Context, connection *sql.Conn, expected, statement string, parameters ...interface{}) error {
	var found string
	if err := connection.QueryRowContext(ctx, statement, parameters...).Scan(&found); err != nil {
		return err
	}
	return equal(found, expected)
}

func does(ctx context.Context, connection *sql.Conn, rows int64, statement string, parameters ...interface{}) error {
	result, err := connection.ExecContext(ctx, statement, parameters...)
	if err != nil {
		return err
	}
	affected, err := result.RowsAffected()
	if err != nil {
		return err
	}
	return equal(affected, rows)
}

func fails(code string, err error) error {
	var told *pq.Error
	if !errors.As(err, &told) {
		return fmt.Errorf("%s was expected, found %v", code, err)
	}
	return equal(string(told.Code), code)
}

func failing(ctx context.Context, connection *sql.Conn, code, statement string, parameters ...interface{}) error {
	_, err := connection.ExecContext(ctx, statement, parameters...)
	return fails(code, err)
}

func crud(ctx context.Context) error {
	return connected(ctx, func(c *sql.Conn) error {
		err := all(
			func() error { return does(ctx, c, 0, "DROP TABLE IF EXISTS "+table) },
			func() error { return does(ctx, c, 0, "CREATE TABLE "+table+" (id int PRIMARY KEY, note text)") },
		)
		for number := 0; number < 10 && err == nil; number++ {
			err = does(ctx, c, 1, "INSERT INTO "+table+" VALUES ($1, $2)", number, fmt.Sprint("note ", number))
		}
		if err != nil {
			return err
		}
		return all(
			func() error { return does(ctx, c, 5, "UPDATE "+table+" SET note = $1 WHERE id < $2", "changed", 5) },
			func() error { return does(ctx, c, 1, "DELETE FROM "+table+" WHERE id = $1", 9) },
			func() error {
				return gives(ctx, c, "0 1 2 3 4", "SELECT string_agg(id::text, ' ' ORDER BY id) FROM "+table+" WHERE note = $1", "changed")
			},
		)
	})
}

func parameters(ctx context.Context) error {
	moment := time.Date(2026, 2, 28, 12, 30, 0, 0, time.UTC)
	every := make([]byte, 256)
	for at := range every {
		every[at] = byte(at)
	}
	return connected(ctx, func(c *sql.Conn) error {
		var large int64
		var fraction float64
		var text, exact string
		var raw []byte
		var yes bool
		var when time.Time
		var list []int64
		var nothing sql.NullString
		row := c.QueryRowContext(ctx, "SELECT $1::int8, $2::float8, $3::numeric, $4::text, $5::bytea, $6::bool, $7::timestamptz, $8::int4[], $9::text",
			int64(1)<<53+1, 1.5, "12345.6789", "Grüße, 世界", every, true, moment, pq.Array([]int64{1, 2}), nil)
		if err := row.Scan(&large, &fraction, &exact, &text, &raw, &yes, &when, pq.Array(&list), &nothing); err != nil {
			return err
		}
		if !bytes.Equal(raw, every) || !when.Equal(moment) || nothing.Valid {
			return fmt.Errorf("found %v, %v, %v", raw, when, nothing)
		}
		return equal([]interface{}{large, fraction, exact, text, yes, list},
			[]interface{}{int64(1)<<53 + 1, 1.5, "12345.6789", "Grüße, 世界", true, []int64{1, 2}})
	})
}

func transactions(ctx context.Context) error {
	return connected(ctx, func(c *sql.Conn) error {
		var before int64
		if err := c.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&before); err != nil {
			return err
		}
		for number, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
			transaction, err := c.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if _, err = transaction.ExecContext(ctx, "INSERT INTO "+table+" VALUES ($1, 'perhaps')", 100+number); err != nil {
				return err
			}
			if err = end(transaction); err != nil {
				return err
			}
		}
		return gives(ctx, c, fmt.Sprint(before+1), "SELECT count(*) FROM "+table)
	})
}

func errorInTransaction(ctx context.Context) error {
	return connected(ctx, func(c *sql.Conn) error {
		return all(
			func() error { return does(ctx, c, 0, "BEGIN") },
			func() error { return does(ctx, c, 1, "INSERT INTO "+table+" VALUES (102, 'dropped')") },
			func() error { return failing(ctx, c, "22012", "SELECT 1 / $1::int", 0) },
			func() error { return failing(ctx, c, "25P02", "SELECT 1") },
			func() error { return does(ctx, c, 0, "ROLLBACK") },
			func() error { return gives(ctx, c, "0", "SELECT count(*) FROM "+table+" WHERE id = 102") },
		)
	})
}

func errorCodes(ctx context.Context) error {
	return connected(ctx, func(c *sql.Conn) error {
		return all(
			func() error { return failing(ctx, c, "23505", "INSERT INTO "+table+" VALUES ($1, 'again')", 1) },
			func() error { return failing(ctx, c, "42P01", "SELECT * FROM no_such_table") },
			func() error { return failing(ctx, c, "22012", "SELECT 1 / $1::int", 0) },
			func() error { return gives(ctx, c, "1", "SELECT 1") },
		)
	})
}

func multiStatement(ctx context.Context) error {
	return connected(ctx, func(c *sql.Conn) error {
		rows, err := c.QueryContext(ctx, "SELECT 1; SELECT 2; SELECT 3")
		if err != nil {
			return err
		}
		defer rows.Close()
		found := ""
		for more := true; more; more = rows.NextResultSet() {
			for rows.Next() {
				var value string
				if err := rows.Scan(&value); err != nil {
					return err
				}
				found += value
			}
		}
		return all(
			func() error { return equal(found, "123") },
			rows.Err,
			func() error { return failing(ctx, c, "22012", "SELECT 1; SELECT 1 / 0; SELECT 3") },
			func() error { return gives(ctx, c, "4", "SELECT 4") },
		)
	})
}

func prepared(ctx context.Context) error {
	return connected(ctx, func(c *sql.Conn) error {
		statement, err := c.PrepareContext(ctx, "SELECT $1::int + 1")
		if err != nil {
			return err
		}
		for number := 0; number < 20; number++ {
			var found int
			if err := statement.QueryRowContext(ctx, number).Scan(&found); err != nil {
				return err
			}
			if err := equal(found, number+1); err != nil {
				return err
			}
		}
		return all(
			func() error {
				return gives(ctx, c, "1", "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT $1::int + 1'")
			},
			statement.Close,
			func() error {
				return gives(ctx, c, "0", "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT $1::int + 1'")
			},
		)
	})
}

// More sessions than server connections stay open; each has settings of its own.
func sessions(ctx context.Context) error {
	return together(sessionsMax, func(number int) error {
		return connected(ctx, func(c *sql.Conn) error {
			err := all(
				func() error { return does(ctx, c, 0, fmt.Sprintf("SET work_mem = '%dkB'", 1000+number)) },
				func() error {
					return gives(ctx, c, fmt.Sprint(number), "SELECT set_config('app.session', $1, false)", fmt.Sprint(number))
				},
			)
			for turn := 0; turn < 8 && err == nil; turn++ {
				err = all(
					func() error {
						return gives(ctx, c, fmt.Sprint(turn+number), fmt.Sprintf("SELECT $1::int + %d", number), turn)
					},
					func() error { return gives(ctx, c, fmt.Sprintf("%dkB", 1000+number), "SHOW work_mem") },
					func() error { return gives(ctx, c, fmt.Sprint(number), "SELECT current_setting('app.session')") },
				)
				if turn == 4 && err == nil {
					err = failing(ctx, c, "22012", "SELECT 1 / $1::int", 0)
				}
			}
			return err
		})
	})
}

func copyRows(ctx context.Context) error {
	return connected(ctx, func(c *sql.Conn) error {
		transaction, err := c.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if _, err = transaction.ExecContext(ctx, "TRUNCATE "+table); err != nil {
			return err
		}
		statement, err := transaction.PrepareContext(ctx, pq.CopyIn(table, "id", "note"))
		if err != nil {
			return err
		}
		for number := 0; number < 10_000; number++ {
			if _, err := statement.ExecContext(ctx, number, fmt.Sprint("row ", number)); err != nil {
				return err
			}
		}
		if _, err := statement.ExecContext(ctx); err != nil {
			return err
		}
		return all(
			statement.Close,
			transaction.Commit,
			func() error { return gives(ctx, c, "49995000", "SELECT sum(id) FROM "+table) },
		)
	})
}

func copyError(ctx context.Context) error {
	return connected(ctx, func(c *sql.Conn) error {
		transaction, err := c.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		statement, err := transaction.PrepareContext(ctx, pq.CopyIn(table, "id", "note"))
		if err != nil {
			return err
		}
		_, err = statement.ExecContext(ctx, "not a number", "x")
		if err == nil {
			_, err = statement.ExecContext(ctx)
		}
		if err := fails("22P02", err); err != nil {
			return err
		}
		// The statement may say once more that it has failed.
		_ = statement.Close()
		return all(transaction.Rollback, func() error { return gives(ctx, c, "1", "SELECT 1") })
	})
}

// lib/pq cancels what its context gives up on.
func cancelled(ctx context.Context) error {
	return connected(ctx, func(c *sql.Conn) error {
		return connected(ctx, func(observer *sql.Conn) error {
			patient, giveUp := context.WithCancel(ctx)
			defer giveUp()
			ended := make(chan error, 1)
			go func() { ended <- failing(patient, c, "57014", "SELECT pg_sleep(60) /* "+table+" sleeps */") }()
			for asleep := "0"; asleep == "0"; time.Sleep(50 * time.Millisecond) {
				if err := observer.QueryRowContext(ctx, sleepers(table)).Scan(&asleep); err != nil {
					return err
				}
			}
			giveUp()
			if err := <-ended; err != nil {
				return err
			}
			return gives(ctx, observer, "0", sleepers(table))
		})
	})
}

func bigValues(ctx context.Context) error {
	large := strings.Repeat("x", 5_000_000)
	return connected(ctx, func(c *sql.Conn) error {
		return all(
			func() error { return gives(ctx, c, large, "SELECT $1::text", large) },
			func() error { return gives(ctx, c, strings.Repeat("y", 5_000_000), "SELECT repeat('y', 5000000)") },
		)
	})
}

func everySize(ctx context.Context) error {
	return connected(ctx, func(c *sql.Conn) error {
		for size := 1_000; size < 120_000; size += 811 {
			if err := gives(ctx, c, strings.Repeat("x", size), "SELECT repeat('x', $1)", size); err != nil {
				return err
			}
		}
		return nil
	})
}

func listens(ctx context.Context) error {
	listener := pq.NewListener(url(), time.Second, time.Minute, nil)
	defer listener.Close()
	if err := listener.Listen(table); err != nil {
		return err
	}
	return connected(ctx, func(speaker *sql.Conn) error {
		err := all(
			func() error { return does(ctx, speaker, 0, "NOTIFY "+table+", 'first'") },
			func() error { return does(ctx, speaker, 0, "NOTIFY "+table+", 'second'") },
		)
		for _, words := range []string{"first", "second"} {
			if err != nil {
				return err
			}
			select {
			case heard := <-listener.Notify:
				if heard == nil {
					return fmt.Errorf("the listener has lost its connection")
				}
				err = equal(heard.Extra, words)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return err
	})
}

func concurrent(ctx context.Context) error {
	count := concurrency()
	err := together(count, func(number int) error {
		return connected(ctx, func(c *sql.Conn) error {
			return all(
				func() error {
					return does(ctx, c, 1, "INSERT INTO "+table+" VALUES ($1, $2)", 100_000+number, fmt.Sprint("client ", number))
				},
				func() error {
					return gives(ctx, c, fmt.Sprint("client ", number), "SELECT note FROM "+table+" WHERE id = $1", 100_000+number)
				},
			)
		})
	})
	if err != nil {
		return err
	}
	return connected(ctx, func(c *sql.Conn) error {
		return all(
			func() error {
				return gives(ctx, c, fmt.Sprint(count), "SELECT count(*) FROM "+table+" WHERE id >= 100000")
			},
			func() error { return does(ctx, c, 0, "DROP TABLE "+table) },
		)
	})
}
