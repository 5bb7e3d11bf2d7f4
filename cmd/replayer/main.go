// Command replayer is the operator's tool: it sends dead letters back to work
// as a daemon, and shows, replays, requeues and discards them for a person.
//
// Every command may be interrupted, killed and run again. It links nothing
// that could call a provider.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"fetchworker/internal/app"
)

func main() {
	time.Local = time.UTC // what is stored, logged or shown says so, wherever the machine stands
	app.LimitMemory()
	app.PaceCollector()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{getenv: getenv, in: stdin, out: stdout, errs: stderr}
	root := c.root() //nolint:contextcheck // cobra hands the context to the command that runs
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if c.array != nil {
		err = errors.Join(err, c.array.end())
	}
	return c.exit(ctx, err)
}
