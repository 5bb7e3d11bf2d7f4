package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fetchworker/internal/wait"

	"github.com/nats-io/nats.go/jetstream"
)

// places puts each durable consumer of a stream where it stands at the old
// place, or a little before. A snapshot brings them along as they were: one may
// have gone on since, which changes nothing of its stream, or have been made
// since; and in a cluster one may be led by a server whose copy of the stream
// was not whole yet, and hand out nothing for good. What comes once more for it
// is the price of an ack floor; what it has not acknowledged is never left out.
func (m *Move) places(ctx context.Context, name string) error {
	from, err := m.From.Stream(ctx, name)
	if err != nil {
		return err
	}
	var durable []*jetstream.ConsumerInfo
	all := from.ListConsumers(ctx)
	for consumer := range all.Info() {
		if consumer.Config.Durable != "" { // others end with whoever made them
			durable = append(durable, consumer)
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("list its consumers: %w", err)
	}
	if len(durable) == 0 {
		return nil
	}
	m.awaitCopies(ctx, name)
	for _, consumer := range durable {
		if err := m.putBack(ctx, consumer); err != nil {
			return fmt.Errorf("consumer %s: %w", consumer.Name, err)
		}
	}
	return nil
}

// awaitCopies waits until all servers have all of a stream, or one has none of
// it for long.
func (m *Move) awaitCopies(ctx context.Context, name string) {
	whole := func() bool {
		stream, err := m.To.Stream(ctx, name)
		if err != nil {
			return false
		}
		cluster := stream.CachedInfo().Cluster
		if cluster == nil {
			return true
		}
		for _, copied := range cluster.Replicas {
			if !copied.Current || copied.Lag > 0 {
				return false
			}
		}
		return true
	}
	for begun := time.Now(); !whole() && time.Since(begun) < movePatience && wait.For(ctx, time.Second/4) == nil; {
	}
}

// putBack is places for one consumer.
func (m *Move) putBack(ctx context.Context, old *jetstream.ConsumerInfo) error {
	there, err := m.consumerThere(ctx, old)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		there, err = m.makeThere(ctx, old)
	}
	if err != nil {
		return err
	}
	if there.AckFloor.Stream == old.AckFloor.Stream && there.Delivered.Stream == old.Delivered.Stream &&
		there.NumPending == old.NumPending && there.NumAckPending == old.NumAckPending {
		return nil
	}
	const resetMajor, resetMinor = 2, 14
	if !atLeast(m.To.Conn().ConnectedServerVersion(), resetMajor, resetMinor) {
		m.Tell(old.Stream, fmt.Sprintf("consumer %s has acknowledged all up to %d, and to %d here: a server older than %d.%d cannot put it there", old.Name, old.AckFloor.Stream, there.AckFloor.Stream, resetMajor, resetMinor))
		return nil
	}
	_, err = m.To.ResetConsumerToSequence(ctx, old.Stream, old.Name, old.AckFloor.Stream+1)
	if errors.Is(err, jetstream.ErrConsumerInvalidReset) { // one that began at the stream's end has a floor of its own only
		_, err = m.To.ResetConsumer(ctx, old.Stream, old.Name)
	}
	return err
}

func (m *Move) consumerThere(ctx context.Context, old *jetstream.ConsumerInfo) (*jetstream.ConsumerInfo, error) {
	if old.Config.DeliverSubject != "" {
		c, err := m.To.PushConsumer(ctx, old.Stream, old.Name)
		if err != nil {
			return nil, err
		}
		return c.CachedInfo(), nil
	}
	c, err := m.To.Consumer(ctx, old.Stream, old.Name)
	if err != nil {
		return nil, err
	}
	return c.CachedInfo(), nil
}

func (m *Move) makeThere(ctx context.Context, old *jetstream.ConsumerInfo) (*jetstream.ConsumerInfo, error) {
	config := old.Config
	config.Replicas = 0 // as its stream has
	if config.DeliverSubject != "" {
		c, err := m.To.CreatePushConsumer(ctx, old.Stream, config)
		if err != nil {
			return nil, err
		}
		return c.CachedInfo(), nil
	}
	c, err := m.To.CreateConsumer(ctx, old.Stream, config)
	if err != nil {
		return nil, err
	}
	return c.CachedInfo(), nil
}
