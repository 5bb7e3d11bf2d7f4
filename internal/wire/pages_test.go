package wire_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// A page is gone on from by its size and not by what came of it, and a server that
// tells no sizes ends a list.
func TestAListGoesOnByItsPages(t *testing.T) {
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true}) // without streams: the test tells of them
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for limit, want := range map[int][]int{3: {0, 3, 6}, 7: {0}, 100: {0}, 0: {0}} {
		var asked []int
		sub, err := nc.Subscribe("$JS.API.STREAM.INFO.PAGED", func(m *nats.Msg) {
			var q struct {
				Offset int `json:"offset"`
			}
			if err := json.Unmarshal(m.Data, &q); err != nil {
				t.Error(err)
			}
			if asked = append(asked, q.Offset); len(asked) > 10 {
				_ = m.Respond([]byte(`{"error":{"code":500}}`))
				return
			}
			// Of each page two subjects look alike.
			_ = m.Respond(fmt.Appendf(nil, `{"total":7,"limit":%d,"state":{"subjects":{"s.%d":1,"s.alike":1}}}`, limit, q.Offset))
		})
		if err != nil {
			t.Fatal(err)
		}
		listed, err := wire.List(t.Context(), nc, "PAGED", ">")
		if err != nil || !slices.Equal(asked, want) || len(listed.Subjects) != len(want)+1 {
			t.Errorf("pages of %d: asked from %v on, want %v; %d subjects, %v", limit, asked, want, len(listed.Subjects), err)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}

// A request is answered under its body's id, else under its message's, else under one
// made of its place: always under one that an answer can have.
func TestUnderWhichIDARequestIsAnswered(t *testing.T) {
	at := time.Unix(1770000000, 0)
	for _, c := range []struct{ body, message, want string }{
		{"q-1", "fmp.quote.alice.q-2", "q-1"},
		{"", "fmp.quote.alice.q-2", "q-2"},
		{"", "q-2", "q-2"},
		{"a b", "fmp.quote.alice.q-2", "q-2"},
		{"a.b", "", "seq-7-1770000000"},
		{">", "x.*", "seq-7-1770000000"},
		{"", "x.", "seq-7-1770000000"},
		{"", "", "seq-7-1770000000"},
	} {
		if got := wire.ResolveID(c.body, c.message, 7, at); got != c.want || !fetchworker.ValidID(got) {
			t.Errorf("%q, %q: %q", c.body, c.message, got)
		}
	}
}
