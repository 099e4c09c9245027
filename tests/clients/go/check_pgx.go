package main

// The matrix's script through pgx, whose connections keep a cache of prepared statements.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
)

const (
	table       = "check_pgx"
	sessionsMax = 12
)

func main() {
	run([]check{
		{"crud", crud}, {"parameters", parameters}, {"transactions", transactions}, {"error_in_transaction", errorInTransaction},
		{"error_codes", errorCodes}, {"multi_statement", multiStatement}, {"prepared", prepared}, {"batch", batch}, {"sessions", sessions},
		{"copy", copyRows}, {"copy_error", copyError}, {"cancel", cancelled}, {"big_values", bigValues}, {"answers_of_every_size", everySize},
		{"notices", notices}, {"listens", listens}, {"concurrent", concurrent},
	})
}

func connected(ctx context.Context, work func(*pgx.Conn) error) error {
	connection, err := pgx.Connect(ctx, url())
	if err != nil {
		return err
	}
	defer connection.Close(ctx)
	return work(connection)
}

// Runs a statement; the answer must be this one value.
func gives(ctx context.Context, connection *pgx.Conn, expected interface{}, statement string, parameters ...interface{}) error {
	rows, err := connection.Query(ctx, statement, parameters...)
	if err != nil {
		return err
	}
	defer rows.Close()
	var found interface{}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return err
		}
		found = values[0]
	}
	if rows.Err() != nil {
		return rows.Err()
	}
	return equal(found, expected)
}

func does(ctx context.Context, connection *pgx.Conn, rows int64, statement string, parameters ...interface{}) error {
	tag, err := connection.Exec(ctx, statement, parameters...)
	if err != nil {
		return err
	}
	return equal(tag.RowsAffected(), rows)
}

func fails(code string, err error) error {
	var told *pgconn.PgError
	if !errors.As(err, &told) {
		return fmt.Errorf("%s was expected, found %v", code, err)
	}
	return equal(told.Code, code)
}

func failing(ctx context.Context, connection *pgx.Conn, code, statement string, parameters ...interface{}) error {
	_, err := connection.Exec(ctx, statement, parameters...)
	return fails(code, err)
}

func crud(ctx context.Context) error {
	return connected(ctx, func(c *pgx.Conn) error {
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
	return connected(ctx, func(c *pgx.Conn) error {
		var small int32
		var large int64
		var fraction float64
		var exact pgtype.Numeric
		var text string
		var raw []byte
		var yes bool
		var when time.Time
		var list []int32
		var nothing *string
		numeric := pgtype.Numeric{Int: big.NewInt(123456789), Exp: -4, Status: pgtype.Present}
		row := c.QueryRow(ctx, "SELECT $1::int4, $2::int8, $3::float8, $4::numeric, $5::text, $6::bytea, $7::bool, $8::timestamptz, $9::int4[], $10::text",
			int32(42), int64(1)<<53+1, 1.5, numeric, "Grüße, 世界", every, true, moment, []int32{1, 2}, nil)
		if err := row.Scan(&small, &large, &fraction, &exact, &text, &raw, &yes, &when, &list, &nothing); err != nil {
			return err
		}
		if !bytes.Equal(raw, every) || !when.Equal(moment) || nothing != nil || exact.Int.Cmp(numeric.Int) != 0 || exact.Exp != numeric.Exp {
			return fmt.Errorf("found %v, %v, %v, %v", raw, when, nothing, exact)
		}
		return equal([]interface{}{small, large, fraction, text, yes, list}, []interface{}{int32(42), int64(1)<<53 + 1, 1.5, "Grüße, 世界", true, []int32{1, 2}})
	})
}

func transactions(ctx context.Context) error {
	return connected(ctx, func(c *pgx.Conn) error {
		var before int64
		if err := c.QueryRow(ctx, "SELECT count(*) FROM "+table).Scan(&before); err != nil {
			return err
		}
		for number, end := range []func(pgx.Tx) error{func(t pgx.Tx) error { return t.Commit(ctx) }, func(t pgx.Tx) error { return t.Rollback(ctx) }} {
			transaction, err := c.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err = transaction.Exec(ctx, "INSERT INTO "+table+" VALUES ($1, 'perhaps')", 100+number); err != nil {
				return err
			}
			if err = end(transaction); err != nil {
				return err
			}
		}
		return gives(ctx, c, before+1, "SELECT count(*) FROM "+table)
	})
}

func errorInTransaction(ctx context.Context) error {
	return connected(ctx, func(c *pgx.Conn) error {
		return all(
			func() error { return does(ctx, c, 0, "BEGIN") },
			func() error { return does(ctx, c, 1, "INSERT INTO "+table+" VALUES (102, 'dropped')") },
			func() error { return failing(ctx, c, "22012", "SELECT 1 / $1::int", 0) },
			func() error { return failing(ctx, c, "25P02", "SELECT 1") },
			func() error { return equal(string([]byte{c.PgConn().TxStatus()}), "E") },
			func() error { return does(ctx, c, 0, "ROLLBACK") },
			func() error { return gives(ctx, c, int64(0), "SELECT count(*) FROM "+table+" WHERE id = 102") },
		)
	})
}

func errorCodes(ctx context.Context) error {
	return connected(ctx, func(c *pgx.Conn) error {
		return all(
			func() error { return failing(ctx, c, "23505", "INSERT INTO "+table+" VALUES ($1, 'again')", 1) },
			func() error { return failing(ctx, c, "42P01", "SELECT * FROM no_such_table") },
			func() error { return failing(ctx, c, "22012", "SELECT 1 / $1::int", 0) },
			func() error { return gives(ctx, c, int32(1), "SELECT 1") },
		)
	})
}

func multiStatement(ctx context.Context) error {
	return connected(ctx, func(c *pgx.Conn) error {
		results, err := c.PgConn().Exec(ctx, "SELECT 1; SELECT 2; SELECT 3").ReadAll()
		if err != nil {
			return err
		}
		found := ""
		for _, result := range results {
			found += string(result.Rows[0][0])
		}
		if err := equal(found, "123"); err != nil {
			return err
		}
		_, err = c.PgConn().Exec(ctx, "SELECT 1; SELECT 1 / 0; SELECT 3").ReadAll()
		if err := fails("22012", err); err != nil {
			return err
		}
		return gives(ctx, c, int32(4), "SELECT 4")
	})
}

func prepared(ctx context.Context) error {
	return connected(ctx, func(c *pgx.Conn) error {
		if _, err := c.Prepare(ctx, "one_more", "SELECT $1::int + 1"); err != nil {
			return err
		}
		for number := int32(0); number < 20; number++ {
			if err := gives(ctx, c, number+1, "one_more", number); err != nil {
				return err
			}
		}
		return all(
			func() error {
				return gives(ctx, c, "one_more", "SELECT name FROM pg_prepared_statements WHERE name = 'one_more'")
			},
			func() error { return c.Deallocate(ctx, "one_more") },
			func() error {
				return gives(ctx, c, int64(0), "SELECT count(*) FROM pg_prepared_statements WHERE name = 'one_more'")
			},
		)
	})
}

// What pgx sends for a batch: every statement described first, all executed in one packet.
func batch(ctx context.Context) error {
	return connected(ctx, func(c *pgx.Conn) error {
		queued := &pgx.Batch{}
		for number := 0; number < 50; number++ {
			queued.Queue(fmt.Sprintf("SELECT $1::int * %d", number%5), number)
		}
		results := c.SendBatch(ctx, queued)
		for number := 0; number < 50; number++ {
			var found int
			if err := results.QueryRow().Scan(&found); err != nil {
				return err
			}
			if err := equal(found, number*(number%5)); err != nil {
				return err
			}
		}
		if err := results.Close(); err != nil {
			return err
		}
		queued = &pgx.Batch{}
		queued.Queue("INSERT INTO " + table + " VALUES (103, 'dropped')")
		queued.Queue("SELECT 1 / $1::int", 0)
		if err := fails("22012", c.SendBatch(ctx, queued).Close()); err != nil {
			return err
		}
		return gives(ctx, c, int64(0), "SELECT count(*) FROM "+table+" WHERE id = 103")
	})
}

// More sessions than server connections stay open; each has statements and settings of its own.
func sessions(ctx context.Context) error {
	return together(sessionsMax, func(number int) error {
		return connected(ctx, func(c *pgx.Conn) error {
			err := all(
				func() error { return does(ctx, c, 0, fmt.Sprintf("SET work_mem = '%dkB'", 1000+number)) },
				func() error {
					return gives(ctx, c, fmt.Sprint(number), "SELECT set_config('app.session', $1, false)", fmt.Sprint(number))
				},
			)
			for turn := 0; turn < 8 && err == nil; turn++ {
				err = all(
					func() error {
						return gives(ctx, c, int32(turn+number), fmt.Sprintf("SELECT $1::int + %d", number), turn)
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
	return connected(ctx, func(c *pgx.Conn) error {
		transaction, err := c.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err = transaction.Exec(ctx, "TRUNCATE "+table); err != nil {
			return err
		}
		rows := pgx.CopyFromSlice(10_000, func(number int) ([]interface{}, error) {
			return []interface{}{number, fmt.Sprint("row ", number)}, nil
		})
		copied, err := transaction.CopyFrom(ctx, pgx.Identifier{table}, []string{"id", "note"}, rows)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if _, err = c.PgConn().CopyTo(ctx, &out, "COPY (SELECT id FROM "+table+") TO STDOUT"); err != nil {
			return err
		}
		return all(
			func() error { return equal(copied, int64(10_000)) },
			func() error { return equal(strings.Count(out.String(), "\n"), 10_000) },
			func() error { return transaction.Commit(ctx) },
		)
	})
}

func copyError(ctx context.Context) error {
	return connected(ctx, func(c *pgx.Conn) error {
		_, err := c.PgConn().CopyFrom(ctx, strings.NewReader("not a number\tx\n"), "COPY "+table+" FROM STDIN")
		if err := fails("22P02", err); err != nil {
			return err
		}
		return gives(ctx, c, int32(1), "SELECT 1")
	})
}

func cancelled(ctx context.Context) error {
	return connected(ctx, func(c *pgx.Conn) error {
		return connected(ctx, func(observer *pgx.Conn) error {
			ended := make(chan error, 1)
			go func() { ended <- failing(ctx, c, "57014", "SELECT pg_sleep(60) /* "+table+" sleeps */") }()
			for asleep := int64(0); asleep == 0; time.Sleep(50 * time.Millisecond) {
				if err := observer.QueryRow(ctx, sleepers(table)).Scan(&asleep); err != nil {
					return err
				}
			}
			return all(
				func() error { return c.PgConn().CancelRequest(ctx) },
				func() error { return <-ended },
				func() error { return gives(ctx, c, int32(1), "SELECT 1") },
			)
		})
	})
}

func bigValues(ctx context.Context) error {
	large := strings.Repeat("x", 5_000_000)
	return connected(ctx, func(c *pgx.Conn) error {
		return all(
			func() error { return gives(ctx, c, large, "SELECT $1::text", large) },
			func() error { return gives(ctx, c, strings.Repeat("y", 5_000_000), "SELECT repeat('y', 5000000)") },
		)
	})
}

func everySize(ctx context.Context) error {
	return connected(ctx, func(c *pgx.Conn) error {
		for size := 1_000; size < 120_000; size += 811 {
			if err := gives(ctx, c, strings.Repeat("x", size), "SELECT repeat('x', $1)", size); err != nil {
				return err
			}
		}
		return nil
	})
}

func notices(ctx context.Context) error {
	config, err := pgx.ParseConfig(url())
	if err != nil {
		return err
	}
	heard := []string{}
	config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		heard = append(heard, notice.Severity+" "+notice.Message)
	}
	connection, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer connection.Close(ctx)
	if err := does(ctx, connection, 0, "DO $$ BEGIN RAISE NOTICE 'hear me'; END $$"); err != nil {
		return err
	}
	return equal(heard, []string{"NOTICE hear me"})
}

func listens(ctx context.Context) error {
	return connected(ctx, func(listener *pgx.Conn) error {
		return connected(ctx, func(speaker *pgx.Conn) error {
			err := all(
				func() error { return does(ctx, listener, 0, "LISTEN "+table) },
				func() error { return does(ctx, speaker, 0, "NOTIFY "+table+", 'first'") },
				func() error { return does(ctx, speaker, 0, "NOTIFY "+table+", 'second'") },
			)
			for _, words := range []string{"first", "second"} {
				if err != nil {
					return err
				}
				heard, waited := listener.WaitForNotification(ctx)
				if waited != nil {
					return waited
				}
				err = equal(heard.Payload, words)
			}
			return err
		})
	})
}

func concurrent(ctx context.Context) error {
	count := concurrency()
	err := together(count, func(number int) error {
		return connected(ctx, func(c *pgx.Conn) error {
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
	return connected(ctx, func(c *pgx.Conn) error {
		return all(
			func() error { return gives(ctx, c, int64(count), "SELECT count(*) FROM "+table+" WHERE id >= 100000") },
			func() error { return does(ctx, c, 0, "DROP TABLE "+table) },
		)
	})
}
