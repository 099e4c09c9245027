package main

// Runs the checks of one client and prints a line for each; the last line counts them.

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"
)

const deadline = 90 * time.Second

type check struct {
	name string
	work func(context.Context) error
}

// What has one client wait, in a session that it keeps, for what another does.
var needsTwo = map[string]bool{"cancel": true, "listens": true}

func run(checks []check) {
	passed, failed, skipped := 0, 0, 0
	for _, check := range checks {
		if needsTwo[check.name] && os.Getenv("ONE_CONNECTION") != "" {
			skipped++
			fmt.Printf("skip %s: it needs two server connections\n", check.name)
			continue
		}
		if err := within(check.work); err != nil {
			failed++
			fmt.Printf("FAIL %s: %s\n", check.name, strings.Join(strings.Fields(err.Error()), " "))
		} else {
			passed++
			fmt.Printf("ok   %s\n", check.name)
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if failed > 0 {
		os.Exit(1)
	}
}

// The program ends there if the work does not heed its context.
func within(work func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(deadline + 10*time.Second):
		return fmt.Errorf("it hangs")
	}
}

func concurrency() int {
	for at, argument := range os.Args {
		if argument == "--concurrent" && at+1 < len(os.Args) {
			if count, err := strconv.Atoi(os.Args[at+1]); err == nil {
				return count
			}
		}
	}
	return 200
}

// The database's URL, with the authority's certificate where there is one.
func url() string {
	if authority := os.Getenv("PGSSLROOTCERT"); authority != "" {
		return os.Getenv("DATABASE_URL") + "?sslmode=verify-full&connect_timeout=60&sslrootcert=" + authority
	}
	return os.Getenv("DATABASE_URL") + "?sslmode=disable&connect_timeout=60"
}

func sleepers(table string) string {
	return "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%* " + table + " sleeps *%' AND pid <> pg_backend_pid()"
}

func equal(found, expected interface{}) error {
	if reflect.DeepEqual(found, expected) {
		return nil
	}
	return fmt.Errorf("expected %.200v, found %.200v", expected, found)
}

// The first thing that went wrong.
func all(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// So many at once; the first thing that went wrong.
func together(count int, work func(int) error) error {
	done := make(chan error, count)
	for number := 0; number < count; number++ {
		go func(number int) { done <- work(number) }(number)
	}
	var first error
	for number := 0; number < count; number++ {
		if err := <-done; err != nil && first == nil {
			first = err
		}
	}
	return first
}
