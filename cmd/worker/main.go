// Command worker fetches what agents ask for on NATS JetStream, inside every
// provider's limits, and gives every request one final answer.
//
// With NATS_URL it joins a server; without, it embeds one and runs the
// replayer's loop as well. "worker demo" shows all of it with no key and no
// network. docs/operations.md and README.md list the environment.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // to silence it
	"os"
	"os/signal"
	"syscall"
	"time"

	"fetchworker/internal/app"
)

func main() {
	// net/http tells the standard logger what a provider sends out of turn, and
	// that may be our key.
	log.SetOutput(io.Discard)
	time.Local = time.UTC // what is stored, logged or shown says so, wherever the machine stands
	app.LimitMemory()
	app.PaceCollector()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	// The first signal drains; a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// version is set by the release build.
var version = "dev"

// errUsage is a mistake of arguments, flags or variables.
var errUsage = errors.New("usage")
