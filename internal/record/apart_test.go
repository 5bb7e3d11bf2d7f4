package record_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A connection on which the server takes nothing in any more holds up what is
// large, and nothing small: an answer is stored meanwhile, and what was held up
// is stored when the server takes it. (Not in a bubble: the client holds a mutex
// while it writes.)
func TestALargeMessageHoldsUpNothingSmall(t *testing.T) {
	b, slow := brokertest.Start(t), &brokertest.Wire{}
	apart := b.ConnectThrough(t, slow)
	defer apart.Close()
	log := record.New(b.JS, nil)
	log.Apart(apart)
	held := slow.Stop()
	stored := make(chan error, 1)
	large := nats.NewMsg("fetch.body.alice.digest.1")
	large.Data = make([]byte, fetchworker.MaxInlineBody)
	go func() { stored <- log.Append(t.Context(), "body", fetchworker.StreamBodies, large) }()
	select {
	case <-held:
	case err := <-stored:
		t.Fatalf("the large one went another way: %v", err)
	}
	a := ok(1)
	if out, err := log.Put(t.Context(), slotOf(a.Identity), a.Encode()); err != nil || !out.Stored {
		t.Errorf("a small answer: %+v, %v", out, err)
	}
	select {
	case err := <-stored:
		t.Errorf("the large one is stored on a connection that stands still: %v", err)
	default:
	}
	slow.Go()
	if err := <-stored; err != nil {
		t.Errorf("the large one: %v", err)
	}
	if _, err := log.Last(t.Context(), fetchworker.StreamBodies, large.Subject); err != nil {
		t.Errorf("it is not there: %v", err)
	}
}

// That the server says nothing of a large write is told only of a connection
// that stands.
func TestALostConnectionOfLargeMessagesIsNoSilence(t *testing.T) {
	wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, _ *brokertest.Wire) {
		w := &brokertest.Wire{}
		apart := b.ConnectThrough(t, w)
		log := record.New(js, nil)
		log.Apart(apart)
		large := nats.NewMsg("fetch.body.alice.digest.1")
		large.Data = make([]byte, fetchworker.MaxInlineBody)
		w.Break("fetch.body.", brokertest.RequestLost, 1<<20, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := log.Append(ctx, "body", fetchworker.StreamBodies, large); err == nil || !log.Silent(fetchworker.StreamBodies) {
			t.Errorf("what the server does not answer: %v, silent %t", err, log.Silent(fetchworker.StreamBodies))
		}
		w.Mend()
		if err := log.Append(ctx, "body", fetchworker.StreamBodies, large); err != nil || log.Silent(fetchworker.StreamBodies) {
			t.Errorf("when it answers again: %v, silent %t", err, log.Silent(fetchworker.StreamBodies))
		}
		apart.Close()
		if err := log.Append(ctx, "body", fetchworker.StreamBodies, large); !errors.Is(err, nats.ErrConnectionClosed) || log.Silent(fetchworker.StreamBodies) {
			t.Errorf("over a closed connection: %v, silent %t", err, log.Silent(fetchworker.StreamBodies))
		}
	})
}
