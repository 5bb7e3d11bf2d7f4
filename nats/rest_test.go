package nats_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"
)

// TestAWorkerThatMayNotListen: accounts of an earlier version do not let a worker
// hear what is published. It keeps all consumers then, and nobody waits.
func TestAWorkerThatMayNotListen(t *testing.T) {
	development(t)
	o := options(t, "server.conf")
	for _, u := range o.Users {
		if u.Username == "worker" {
			u.Permissions.Subscribe.Allow = slices.DeleteFunc(u.Permissions.Subscribe.Allow, func(subject string) bool {
				return strings.HasPrefix(subject, "fetch.queued.")
			})
		}
	}
	s := start(t, o)
	js := applied(t, s, 1)
	serve(t, s, play(t))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for n := 0; n != 2*wire.Shards+1 && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		n = 0
		for _, name := range []string{fetchworker.StreamRequests, wire.StreamReplay} {
			stream, err := js.Stream(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			n += stream.CachedInfo().State.Consumers
		}
	}
	alice, err := fetchworker.NewClient(user(t, s, "alice"), "alice")
	if err != nil {
		t.Fatal(err)
	}
	a, err := alice.Fetch(ctx, fetchworker.Request{Provider: "fred", Operation: "series", Params: params(`{"series_id":"GDP"}`)})
	if err != nil || a.Status != fetchworker.StatusOK {
		t.Errorf("%+v %v", a, err)
	}
}
