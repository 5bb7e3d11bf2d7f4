package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"

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

// Replayed are the providers that have a consumer on the replay stream.
func Replayed(ctx context.Context, js jetstream.JetStream) (map[string]bool, error) {
	stream, err := js.Stream(ctx, wire.StreamReplay)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", wire.StreamReplay, err)
	}
	all := map[string]bool{}
	names := stream.ConsumerNames(ctx)
	for name := range names.Name() {
		if provider, found := strings.CutSuffix(name, "-replay"); found {
			all[provider] = true
		}
	}
	if err := names.Err(); err != nil {
		return nil, fmt.Errorf("list the consumers of %s: %w", wire.StreamReplay, err)
	}
	return all, nil
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

// ConsumerRest is how long nobody may have pulled from a provider's consumer,
// nor held what it gave, before the server takes it away. It outlives the
// pauses of a worker that dies and is started again, so that what a consumer
// knows of deliveries is there when somebody comes back.
const ConsumerRest = 15 * time.Minute

// RequestConsumer is the consumer of one provider, lane and shard.
func RequestConsumer(provider string, lane fetchworker.Lane, shard, held int) jetstream.ConsumerConfig {
	return ofProvider(ShardConsumer(provider, lane, shard), fmt.Sprintf("fetch.request.%s.%s.%d.>", provider, lane, shard), held)
}

// ReplaysConsumer is a provider's consumer on the replay stream.
func ReplaysConsumer(provider string, held int) jetstream.ConsumerConfig {
	return ofProvider(ReplayConsumer(provider), "fetch.replay."+provider+".>", held)
}

func ofProvider(name, filter string, held int) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: name, FilterSubject: filter,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: AckWait,
		// A work queue hides a message whose deliveries ran out, for ever:
		// the worker itself counts suspects.
		MaxDeliver: -1, MaxAckPending: held, MaxWaiting: 4096,
		InactiveThreshold: ConsumerRest,
	}
}

// ProviderConsumers are all that a provider can have, by stream. They exist
// where messages are or may come, see intake.
func ProviderConsumers(provider string, held int) map[string][]jetstream.ConsumerConfig {
	var requests []jetstream.ConsumerConfig
	for _, lane := range []fetchworker.Lane{fetchworker.LaneInteractive, fetchworker.LaneBatch} {
		for shard := range wire.Shards {
			requests = append(requests, RequestConsumer(provider, lane, shard, held))
		}
	}
	return map[string][]jetstream.ConsumerConfig{
		fetchworker.StreamRequests: requests,
		wire.StreamReplay:          {ReplaysConsumer(provider, held)},
	}
}

// StreamOf is the stream of a provider's consumer.
func StreamOf(consumer jetstream.ConsumerConfig) string {
	if strings.HasPrefix(consumer.FilterSubject, "fetch.replay.") {
		return wire.StreamReplay
	}
	return fetchworker.StreamRequests
}

// makeTime bounds one try to make a consumer: an answer that an election has
// swallowed is not waited for.
const makeTime = 1500 * time.Millisecond

// errLeaderless is what a server says of a consumer whose leader is gone. Of one
// that has not had any yet it tells all but that.
var errLeaderless = &jetstream.APIError{Code: unavailable, ErrorCode: 10008, Description: "the consumer has no leader yet"}

// MakeConsumer makes sure that a provider's consumer exists and can be asked. It
// tells since when it does, and whether it was made just now. Any number may make
// the same one together. With status 503 it may be asked again soon.
func MakeConsumer(ctx context.Context, js jetstream.JetStream, config jetstream.ConsumerConfig) (since time.Time, made bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, makeTime)
	defer cancel()
	return applyConsumer(ctx, js, StreamOf(config), config)
}

// ServeProvider makes all consumers of a provider. Workers make only those that
// are needed, when they are.
func ServeProvider(ctx context.Context, js jetstream.JetStream, provider string, held int) error {
	var group errgroup.Group
	group.SetLimit(8)
	for stream, configs := range ProviderConsumers(provider, held) {
		for _, config := range configs {
			group.Go(func() error {
				_, _, err := applyConsumer(ctx, js, stream, config)
				return err
			})
		}
	}
	return group.Wait()
}

// MayServe is an error where these credentials cannot make and use the
// consumers of a provider.
func MayServe(ctx context.Context, js jetstream.JetStream, provider string) error {
	for _, config := range []jetstream.ConsumerConfig{
		RequestConsumer(provider, fetchworker.LaneInteractive, 0, 0), ReplaysConsumer(provider, 0),
	} {
		stream := StreamOf(config)
		if err := mayMake(ctx, js, stream, config); err != nil {
			return err
		}
		if err := mayPull(ctx, js, stream, config.Durable); err != nil {
			return err
		}
	}
	return nil
}

// mayMake asks for a consumer that no server makes, with more copies than its
// stream, so that a right that is missing is found before it is needed.
func mayMake(ctx context.Context, js jetstream.JetStream, stream string, config jetstream.ConsumerConfig) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	config.Replicas = 99
	err := refusable(ctx, js, func(ctx context.Context) error {
		_, err := js.CreateConsumer(ctx, stream, config)
		return err
	})
	if !denied(err) {
		return nil // anything else is seen when one is made
	}
	if _, found := js.Consumer(ctx, stream, config.Durable); found == nil {
		return nil // somebody else makes them
	}
	return fmt.Errorf("consumer %s on %s is missing, and these credentials may not create it: %w", config.Durable, stream, err)
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
	return mayPull(ctx, js, wire.StreamDLQ, ReplayerConsumer)
}

// HealDLQ is ServeDLQ for a consumer that was there.
func HealDLQ(ctx context.Context, js jetstream.JetStream, log *zap.Logger) error {
	made, err := serveDLQ(ctx, js)
	if made {
		TellMade(log, ReplayerConsumer)
	}
	return err
}

// TellMade says that a consumer was gone while it was pulled from.
func TellMade(log *zap.Logger, consumer string) {
	log.Warn("a consumer was gone and is made again", zap.String("consumer", consumer))
}

func serveDLQ(ctx context.Context, js jetstream.JetStream) (made bool, err error) {
	_, made, err = applyConsumer(ctx, js, wire.StreamDLQ, jetstream.ConsumerConfig{
		Durable: ReplayerConsumer, FilterSubject: "fetch.dlq.>",
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: AckWait,
		MaxDeliver: -1, MaxAckPending: -1, MaxWaiting: 512,
	})
	return made, err
}

// applyConsumer looks first: credentials that may not create are enough where
// the consumer is as wanted, and the server is spared a decision.
func applyConsumer(ctx context.Context, js jetstream.JetStream, stream string, want jetstream.ConsumerConfig) (since time.Time, made bool, err error) {
	var c jetstream.Consumer
	err = refusable(ctx, js, func(ctx context.Context) (err error) {
		c, err = js.Consumer(ctx, stream, want.Durable)
		return err
	})
	missing := errors.Is(err, jetstream.ErrConsumerNotFound)
	if err == nil {
		have := c.CachedInfo()
		since = have.Created
		if have.Cluster != nil && have.Cluster.Leader == "" {
			return since, false, fmt.Errorf("look up consumer %s on %s: %w", want.Durable, stream, errLeaderless)
		}
		if asWanted(have.Config, want) && have.Config.InactiveThreshold == want.InactiveThreshold {
			return since, false, nil
		}
	} else if !missing {
		return since, false, fmt.Errorf("look up consumer %s on %s: %w", want.Durable, stream, err)
	}
	var now jetstream.Consumer
	err = refusable(ctx, js, func(ctx context.Context) (err error) {
		now, err = js.CreateOrUpdateConsumer(ctx, stream, want)
		return err
	})
	switch {
	case err == nil:
		return now.CachedInfo().Created, missing, nil
	case !denied(err):
		return since, false, fmt.Errorf("create consumer %s on %s: %w", want.Durable, stream, err)
	case !missing && asWanted(c.CachedInfo().Config, want):
		return since, false, nil // it stays when nobody needs it
	}
	return since, false, fmt.Errorf("consumer %s on %s is missing or differs, and these credentials may not change it: %w", want.Durable, stream, err)
}

// asWanted reports whether a consumer does what is expected of it.
func asWanted(have, want jetstream.ConsumerConfig) bool {
	return have.MaxAckPending == want.MaxAckPending && have.AckWait == want.AckWait && have.FilterSubject == want.FilterSubject && have.MaxDeliver == want.MaxDeliver
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
