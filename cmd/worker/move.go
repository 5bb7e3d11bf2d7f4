package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dial"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// moveTo is where all that is stored goes.
type moveTo struct{ url, creds, inbox string }

// move takes all that is stored to another server: from the data folder of an
// embedded one, or from the server that the environment names. It may be
// interrupted at any point, and run again.
func move(ctx context.Context, where moveTo, getenv func(string) string, stdout io.Writer) (err error) {
	if where.url == "" {
		return fmt.Errorf("%w: --to URL is needed: the server that everything goes to", errUsage)
	}
	config, err := app.Load(getenv)
	if err != nil {
		return err
	}
	var closing app.Stack
	defer func() { err = errors.Join(err, closing.Close()) }()
	source, err := still(ctx, config, &closing)
	if err != nil {
		return err
	}
	to := dial.Address{URL: where.url, Creds: where.creds, Inbox: where.inbox, Name: "fetchworker move"}
	nc, err := broker.Connect(ctx, to, zap.NewNop(), func(error) {}) // what is refused comes back as an error too
	if err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	closing.Push("the new server", func() error { nc.Close(); return nil })
	target, err := broker.JetStream(nc)
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(stdout, format+"\n", args...) } // the move goes on where nobody reads it
	m := broker.Move{
		From: source, To: target, Name: to.String(), Replicas: config.Topology.Replicas,
		Tell: func(stream, did string) { say("%s: %s", stream, did) },
	}
	if err := m.Run(ctx); err != nil {
		return err
	}
	say("all of it is at %s; run worker apply there, and start the workers with that NATS_URL", to)
	return nil
}

// still is the server that everything is taken from, where no worker works.
func still(ctx context.Context, config app.Config, closing *app.Stack) (jetstream.JetStream, error) {
	var folder *broker.Folder
	if !config.NATS.Remote() {
		var err error
		if folder, err = broker.TakeFolder(config.DataDir); err != nil {
			return nil, err
		}
		closing.Push("data folder", func() error { folder.Leave(); return nil })
		config.NATSAddr = "" // nobody else may come in
	}
	joined, err := join(ctx, config, folder, false, workerName(), zap.NewNop(), closing)
	if err != nil {
		return nil, err
	}
	js, err := broker.JetStream(joined.nc)
	if err != nil || folder != nil {
		return js, err
	}
	kv, err := js.KeyValue(ctx, wire.BucketProviders)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", wire.BucketProviders, err)
	}
	view, err := fleet.Watch(ctx, js, kv)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	var living []string
	for _, w := range view.Workers() {
		living = append(living, w.Name)
	}
	if len(living) > 0 {
		return nil, fmt.Errorf("stop the workers first, and the replayers and agents: %s live (a killed one is taken for alive for 15 s)", strings.Join(living, ", "))
	}
	return js, nil
}
