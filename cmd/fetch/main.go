// Command fetch asks fetchworker for one thing and prints the answer.
//
// It is the agents' client (package fetchworker) on a command line: it
// publishes a request, waits for the final answer and writes the body to
// standard output. Who runs it is an agent like any other.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"fetchworker/internal/terminal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil:
		return
	case errors.Is(err, errUsage):
		_ = terminal.Printf(os.Stderr, "fetch: %v\n", err)
		os.Exit(2)
	case !errors.Is(err, errFailed): // a failed answer has been told already
		_ = terminal.Printf(os.Stderr, "fetch: %v\n", err)
	}
	os.Exit(1)
}
