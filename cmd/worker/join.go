package main

import (
	"context"
	"errors"
	"time"

	"fetchworker/internal/app"
	"fetchworker/internal/broker"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// joined is the server that a worker works with: another process, or one of
// its own.
type joined struct {
	nc       *nats.Conn
	embedded *broker.Embedded                         // nil with NATS_URL
	connect  func(another string) (*nats.Conn, error) // opens one more connection, named so
}

// join joins the server that the environment names, or embeds one on a folder
// that was taken for it.
func join(ctx context.Context, config app.Config, folder *broker.Folder, acceptLoss bool, name string, logger *zap.Logger, closing *app.Stack) (j joined, err error) {
	if config.NATS.Remote() {
		j.connect = func(another string) (*nats.Conn, error) {
			config.NATS.Name = another
			return broker.Connect(ctx, config.NATS, logger, nil)
		}
	} else {
		j.embedded, err = broker.Embed(broker.EmbedOptions{
			Listen: config.NATSAddr, DataDir: config.DataDir, Sync: config.Sync, Folder: folder, AcceptLoss: acceptLoss, Logger: logger,
		})
		if err != nil {
			return j, err
		}
		closing.Push("embedded nats", func() error { j.embedded.Shutdown(); return nil })
		j.connect = func(another string) (*nats.Conn, error) {
			return j.embedded.Connect(append(broker.Watched(logger, nil), nats.Name(another))...)
		}
	}
	if j.nc, err = j.connect("fetchworker worker " + name); err != nil {
		return j, err
	}
	closing.Push("nats", func() error { return drain(ctx, j.nc) })
	return j, nil
}

// drain sends what is still buffered, acknowledgements above all, and closes.
func drain(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := nc.FlushWithContext(ctx)
	nc.Close()
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, context.DeadlineExceeded) {
		return nil // what was held is redelivered
	}
	return err
}
