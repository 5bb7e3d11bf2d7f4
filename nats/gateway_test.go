package nats_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
)

// The gateway asks in every agent's name, and may do nothing else.
func TestTheGatewayAsksForAgents(t *testing.T) {
	development(t)
	s := start(t, options(t, "server.conf"))
	applied(t, s, 1)
	upstream := play(t)
	serve(t, s, upstream)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	nc := user(t, s, "gateway")
	for _, agent := range []string{"alice", "carol"} { // carol has no account: she need not have one
		c, err := fetchworker.NewClient(nc, agent)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		a, err := c.Fetch(ctx, fetchworker.Request{Provider: "fred", Operation: "series", ID: "q-1", Params: params(`{"series_id":"GDP"}`)})
		if err != nil || a.Status != fetchworker.StatusOK || a.Identity.Agent != agent {
			t.Errorf("%+v %v", a, err)
		}
		if _, err := c.Result(ctx, a.Identity); err != nil {
			t.Error(err)
		}
		if done, err := c.Cancel(ctx, a.Identity); err != nil || done.Final != 1 {
			t.Errorf("%+v %v", done, err)
		}
		if told, err := c.Catalogue(ctx, "fred"); err != nil || !told.Configured {
			t.Errorf("%+v %v", told, err)
		}
		last, err := c.LastAnswer(ctx)
		if err != nil || last == 0 {
			t.Errorf("%d %v", last, err)
		}
		page, _, err := c.AnswersAfter(ctx, 0)
		if err != nil || len(page) != 1 || page[0].Identity != a.Identity {
			t.Errorf("%d answers: %v", len(page), err)
		}
	}
	upstream.Script(providertest.JSON(200, `{"large":"`+strings.Repeat("x", fetchworker.MaxInlineBody)+`"}`))
	c, err := fetchworker.NewClient(nc, "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a, err := c.Fetch(ctx, fetchworker.Request{Provider: "fred", Operation: "series", ID: "q-2", Params: params(`{"series_id":"LARGE"}`)}); err != nil || a.Claim == nil || len(a.Body) < fetchworker.MaxInlineBody {
		t.Errorf("%v %v", a.Status, err)
	}

	// What the gateway has asked for alice, she finds under her own account.
	alice, err := fetchworker.NewClient(user(t, s, "alice"), "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	if a, err := alice.Result(ctx, fetchworker.Identity{Provider: "fred", Operation: "series", ID: "q-1"}); err != nil || !a.Final {
		t.Errorf("%+v %v", a, err)
	}
	if _, _, err := alice.AnswersAfter(ctx, 0); !errors.Is(err, fetchworker.ErrNotPermitted) {
		t.Errorf("an agent reads the stream by sequence: %v", err)
	}

	for _, subject := range []string{"fetch.put.fred.series.alice.q-1", "fetch.dlq.fred.interactive.series.alice.q-1", "$KV.fetch_providers.control.fred", "$JS.API.STREAM.PURGE.FETCH_RESULTS", "$JS.API.DIRECT.GET.FETCH_REVIEW", "fetch.state", "$SRV.PING"} {
		refused(t, nc, subject)
	}
}
