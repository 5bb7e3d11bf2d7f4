package nats_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// What happens to a provider is told to every agent; who asked what, with
// which error, is not.
func TestAgentsHearOfProvidersAndNotOfEachOther(t *testing.T) {
	development(t)
	s := start(t, options(t, "server.conf"))
	applied(t, s, 1)
	agent, subscriber := subscribe(t, user(t, s, "alice"), "fetch.event.>"), subscribe(t, user(t, s, "subscriber"), "fetch.event.>")
	told := []string{"circuit", "budget", "throttle", "control"}
	worker := stream(t, user(t, s, "worker"))
	for _, kind := range append([]string{"review"}, told...) {
		if _, err := worker.Publish(t.Context(), wire.EventSubject(kind, "fmp"), []byte(kind)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		who  string
		sub  *nats.Subscription
		want []string
	}{{"alice", agent, told}, {"the subscriber", subscriber, append([]string{"review"}, told...)}} {
		for _, want := range c.want {
			m, err := c.sub.NextMsg(5 * time.Second)
			if err != nil || m.Subject != "fetch.event."+want+".fmp" {
				t.Fatalf("%s: %v %v, want %s", c.who, m, err, want)
			}
		}
		if m, err := c.sub.NextMsg(50 * time.Millisecond); err == nil {
			t.Errorf("%s also hears %s", c.who, m.Subject)
		}
	}
}

func TestAnAgentsAccountIsBounded(t *testing.T) {
	development(t)
	o := options(t, "server.conf")
	s := start(t, o)
	applied(t, s, 1)
	for _, a := range o.Accounts {
		if a.Name == "APP" || a.Name == "SUBSCRIBER" || a.Name == server.DEFAULT_SYSTEM_ACCOUNT || a.Name == server.DEFAULT_GLOBAL_ACCOUNT {
			continue
		}
		if a.MaxActiveConnections() <= 0 {
			t.Errorf("the connections of %s are not limited", a.Name)
		}
	}

	nc := user(t, s, "alice")
	js := stream(t, nc)
	fits := nats.NewMsg(fetchworker.RequestSubject("fred", fetchworker.LaneBatch, "series", "alice"))
	fits.Data = []byte(`{"params":{"x":"` + strings.Repeat("x", 60<<10) + `"}}`)
	if _, err := js.PublishMsg(t.Context(), fits); err != nil {
		t.Errorf("a request of 60 KiB: %v", err)
	}
	padded := nats.NewMsg(fits.Subject)
	padded.Header.Set(nats.MsgIdHdr, strings.Repeat("x", 200<<10))
	_, err := js.PublishMsg(t.Context(), padded)
	if err == nil {
		t.Error("a header of 200 KiB was taken")
	}

	subscribing := user(t, s, "alice")
	refused := make(chan error, 1)
	subscribing.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case refused <- err:
		default:
		}
	})
	for range 2001 {
		if _, err := subscribing.SubscribeSync("fetch.result.>"); err != nil {
			t.Fatal(err)
		}
	}
	patience, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
			t.Error(err)
		}
	case <-patience.Done():
		t.Error("any number of subscriptions")
	}

	url := "nats://alice:alice@" + s.Addr().String()
	for n := range 101 {
		more, err := nats.Connect(url, nats.NoReconnect())
		if err != nil {
			if n < 90 {
				t.Errorf("after %d connections: %v", n, err)
			}
			return
		}
		t.Cleanup(more.Close)
	}
	t.Error("any number of connections")
}
