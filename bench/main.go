// Command bench measures fetchworker beside what does the same job with fewer
// promises: a bare loop over JetStream (the floor), and job queues of others.
// Everything of one table is measured in one run on one machine, in rounds in
// which each contender has its turn.
//
// Every contender and every server is a process of its own, so that its CPU,
// its memory and its allocations can be told apart; this program only
// publishes, waits and writes the table down.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// roles are what this program is started as by itself.
var roles = map[string]func(context.Context) error{
	"provider":  provider,
	"nats":      natsServer,
	"floor":     floor,
	"watermill": watermillWorker,
	"asynq":     asynqWorker,
	"river":     riverWorker,
	"peers":     peers,
	"providers": providersAtRest,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: bench peers|providers [flags]")

func run(ctx context.Context) error {
	if len(os.Args) < 2 {
		return errUsage
	}
	role, ok := roles[os.Args[1]]
	if !ok {
		return errUsage
	}
	return role(ctx)
}
