package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// AckWait is how long a worker may be silent about a request it holds before
// another one gets it. Workers say "in progress" every third of it.
const AckWait = 10 * time.Second

// ReplayerConsumer is the one consumer of the DLQ, shared by all replayers.
const ReplayerConsumer = "replayer"

// ShardConsumer is the name of the consumer of one provider, lane and shard.
func ShardConsumer(provider string, lane fetchworker.Lane, shard int) string {
	return provider + "-" + string(lane) + "-" + strconv.Itoa(shard)
}

// ReplayConsumer is the name of a provider's consumer on the replay stream.
func ReplayConsumer(provider string) string { return provider + "-replay" }

// ServedProvider is the provider whose request consumer has this name, empty
// for any other name.
func ServedProvider(consumer string) string {
	for _, lane := range []fetchworker.Lane{fetchworker.LaneInteractive, fetchworker.LaneBatch} {
		if provider, rest, ok := cutLast(consumer, "-"+string(lane)+"-"); ok {
			if _, err := strconv.Atoi(rest); err == nil {
				return provider
			}
		}
	}
	return ""
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Held is how many requests of one shard the fleet may hold at a time: two
// seconds of the provider's rate, at least 16. It bounds how long a heavy
// agent's requests can stand before a neighbour's.
func Held(perMinute int) int {
	if perMinute <= 0 {
		return 256
	}
	return max(16, (2*perMinute+59)/60)
}

// ProviderConsumers are the consumers that make a provider served.
func ProviderConsumers(provider string, held int) map[string][]jetstream.ConsumerConfig {
	base := func(name, filter string) jetstream.ConsumerConfig {
		return jetstream.ConsumerConfig{
			Durable: name, FilterSubject: filter,
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: AckWait,
			// A work queue hides a message whose deliveries ran out, for ever:
			// the worker itself counts suspects.
			MaxDeliver: -1, MaxAckPending: held, MaxWaiting: 4096,
		}
	}
	var requests []jetstream.ConsumerConfig
	for _, lane := range []fetchworker.Lane{fetchworker.LaneInteractive, fetchworker.LaneBatch} {
		for shard := range fetchworker.Shards {
			requests = append(requests, base(ShardConsumer(provider, lane, shard),
				fmt.Sprintf("fetch.request.%s.%s.%d.>", provider, lane, shard)))
		}
	}
	return map[string][]jetstream.ConsumerConfig{
		fetchworker.StreamRequests: requests,
		fetchworker.StreamReplay:   {base(ReplayConsumer(provider), "fetch.replay."+provider+".>")},
	}
}

// IsServed reports whether a provider's consumers exist: whether somebody
// serves it, or has served it and did not retire it.
func IsServed(ctx context.Context, js jetstream.JetStream, provider string) (bool, error) {
	_, err := js.Consumer(ctx, fetchworker.StreamReplay, ReplayConsumer(provider))
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up consumer %s: %w", ReplayConsumer(provider), err)
	}
	return true, nil
}

// ServeProvider makes sure that a provider's consumers exist. The replay
// consumer comes last: it says that the others are there.
func ServeProvider(ctx context.Context, js jetstream.JetStream, provider string, held int) error {
	_, err := serveProvider(ctx, js, provider, held)
	return err
}

// HealProvider is ServeProvider for a provider whose consumers were there:
// each that had to be made again is told.
func HealProvider(ctx context.Context, js jetstream.JetStream, provider string, held int, log *zap.Logger) error {
	made, err := serveProvider(ctx, js, provider, held)
	tellMade(log, made)
	return err
}

func tellMade(log *zap.Logger, made []string) {
	if len(made) > 0 {
		log.Warn("consumers were gone and are made again", zap.Strings("consumers", made))
	}
}

// serveProvider returns the names of the consumers that it made.
func serveProvider(ctx context.Context, js jetstream.JetStream, provider string, held int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	consumers := ProviderConsumers(provider, held)
	var mu sync.Mutex
	var made []string
	for _, stream := range []string{fetchworker.StreamRequests, fetchworker.StreamReplay} {
		var group errgroup.Group
		group.SetLimit(8)
		for _, config := range consumers[stream] {
			group.Go(func() error {
				created, err := applyConsumer(ctx, js, stream, config)
				mu.Lock()
				defer mu.Unlock()
				if created {
					made = append(made, config.Durable)
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return made, err
		}
	}
	slices.Sort(made)
	if err := mayPull(ctx, js, fetchworker.StreamRequests, consumers[fetchworker.StreamRequests][0].Durable); err != nil {
		return made, err
	}
	return made, mayPull(ctx, js, fetchworker.StreamReplay, ReplayConsumer(provider))
}

// mayPull asks a consumer for what it never gives, so that a right to pull
// that is missing is found at once. A pull that is refused only brings nothing.
func mayPull(ctx context.Context, js jetstream.JetStream, stream, consumer string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := refusable(ctx, js, func(ctx context.Context) error {
		_, err := js.Conn().RequestWithContext(ctx, "$JS.API.CONSUMER.MSG.NEXT."+stream+"."+consumer, []byte(`{"batch":1,"expires":1,"idle_heartbeat":1000000000}`))
		return err
	})
	if denied(err) {
		return fmt.Errorf("these credentials may not pull from consumer %s on %s: %w", consumer, stream, err)
	}
	return nil // anything else is seen when it is pulled from
}

// ServeDLQ makes sure that the replayers' consumer exists. Its messages wait
// with a delayed nak, so it must hold any number unacknowledged.
func ServeDLQ(ctx context.Context, js jetstream.JetStream) error {
	_, err := serveDLQ(ctx, js)
	return err
}

// MayReplay is an error where these credentials cannot work on the DLQ.
func MayReplay(ctx context.Context, js jetstream.JetStream) error {
	return mayPull(ctx, js, fetchworker.StreamDLQ, ReplayerConsumer)
}

// HealDLQ is ServeDLQ for a consumer that was there.
func HealDLQ(ctx context.Context, js jetstream.JetStream, log *zap.Logger) error {
	made, err := serveDLQ(ctx, js)
	if made {
		tellMade(log, []string{ReplayerConsumer})
	}
	return err
}

func serveDLQ(ctx context.Context, js jetstream.JetStream) (made bool, err error) {
	return applyConsumer(ctx, js, fetchworker.StreamDLQ, jetstream.ConsumerConfig{
		Durable: ReplayerConsumer, FilterSubject: "fetch.dlq.>",
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: AckWait,
		MaxDeliver: -1, MaxAckPending: -1, MaxWaiting: 512,
	})
}

// applyConsumer looks first: credentials that may not create are enough where
// the consumer is as wanted.
func applyConsumer(ctx context.Context, js jetstream.JetStream, stream string, want jetstream.ConsumerConfig) (created bool, err error) {
	var c jetstream.Consumer
	err = refusable(ctx, js, func(ctx context.Context) (err error) {
		c, err = js.Consumer(ctx, stream, want.Durable)
		return err
	})
	missing := errors.Is(err, jetstream.ErrConsumerNotFound)
	if err == nil {
		have := c.CachedInfo().Config
		if have.MaxAckPending == want.MaxAckPending && have.AckWait == want.AckWait && have.FilterSubject == want.FilterSubject && have.MaxDeliver == want.MaxDeliver {
			return false, nil
		}
	} else if !missing {
		return false, fmt.Errorf("look up consumer %s on %s: %w", want.Durable, stream, err)
	}
	err = refusable(ctx, js, func(ctx context.Context) error {
		_, err := js.CreateOrUpdateConsumer(ctx, stream, want)
		return err
	})
	if err != nil {
		if denied(err) {
			return false, fmt.Errorf("consumer %s on %s is missing or differs, and these credentials may not change it: %w", want.Durable, stream, err)
		}
		return false, fmt.Errorf("create consumer %s on %s: %w", want.Durable, stream, err)
	}
	return missing, nil
}

// RetireProvider deletes a provider's consumers, so that its requests are
// answered as unknown or not configured again.
func RetireProvider(ctx context.Context, js jetstream.JetStream, provider string) error {
	var failed []error
	for stream, configs := range ProviderConsumers(provider, 0) {
		for _, config := range configs {
			err := js.DeleteConsumer(ctx, stream, config.Durable)
			if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
				failed = append(failed, fmt.Errorf("delete consumer %s: %w", config.Durable, err))
			}
		}
	}
	return errors.Join(failed...)
}
