// Command subscriber writes every final answer to a file of its own, with the
// service's subscriber user: at least once, and once a file, since an answer's
// name is the file's.
//
//	NATS_URL=nats://subscriber:…@host NATS_DOMAIN=APP go run ./examples/subscriber answers/
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"fetchworker"

	"github.com/nats-io/nats.go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: subscriber FOLDER")
		return
	}
	if err := run(ctx, os.Args[1], cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), os.Getenv("NATS_DOMAIN")); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func run(ctx context.Context, folder, server, domain string) error {
	nc, err := nats.Connect(server, nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	s, err := fetchworker.NewSubscriber(nc, fetchworker.SubscriberOptions{Durable: "files", Domain: domain})
	if err != nil {
		return err
	}
	return s.Subscribe(ctx, fetchworker.ResultFilter{Final: true}, func(_ context.Context, a fetchworker.Answer) error {
		if a.Err() != nil {
			return nil //nolint:nilerr // a failure has no body
		}
		name := filepath.Join(folder, a.Identity.String())
		if err := os.WriteFile(name+".part", a.Body, 0o600); err != nil {
			return err // it comes again
		}
		return os.Rename(name+".part", name)
	})
}
