package fetch

import (
	"context"
	"errors"
	"testing"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// However a write ends that had to wait for a store, it waits for it no longer:
// else that store would count as full for ever.
func TestAWriteThatHasEndedWaitsForNoStore(t *testing.T) {
	full := func(stream string) error {
		return &record.NoRoomError{Stream: stream, Err: errors.New("maximum bytes exceeded")}
	}
	lost, refused := errors.New("no answer"), nats.ErrConnectionClosed
	for name, c := range map[string]struct {
		met  []error // one write after the other; nil is stored
		ends bool    // ctx does, in the last wait
		ok   bool
	}{
		"stored at once":           {met: []error{nil}, ok: true},
		"stored later":             {met: []error{full("A"), lost, full("A"), nil}, ok: true},
		"another store in between": {met: []error{full("A"), full("B"), lost, full("A"), nil}, ok: true},
		"refused in the end":       {met: []error{full("A"), full("B"), refused}},
		"refused at once":          {met: []error{refused}},
		"given up":                 {met: []error{full("A"), full("B")}, ends: true},
		"given up, lost":           {met: []error{full("A"), lost}, ends: true},
		"given up as it is made":   {met: []error{full("A"), context.Canceled}},
	} {
		s := newStores(nil, nil, zap.NewNop())
		ctx, end := context.WithCancel(t.Context())
		n := 0
		err := s.write(ctx, "fmp", func() error {
			n++
			if errors.Is(c.met[n-1], context.Canceled) {
				end()
			}
			return c.met[n-1]
		}, func(func() error) error {
			if c.ends && n == len(c.met) {
				end()
				return ctx.Err()
			}
			return nil
		})
		end()
		if (err == nil) != c.ok || n != len(c.met) {
			t.Errorf("%s: %v after %d writes", name, err, n)
		}
		for stream, f := range s.full {
			if f.waiting != 0 {
				t.Errorf("%s: %d wait for %s", name, f.waiting, stream)
			}
		}
		if c.ok && s.holds("fmp") == "A" {
			t.Errorf("%s: %v", name, s.err())
		}
	}
}

// Whose work a full store holds up is known of this time that it is full, and not
// of the one before: others have not had to write to it.
func TestAStoreThatIsFullOnceMore(t *testing.T) {
	s := newStores(nil, nil, zap.NewNop())
	s.change("A", func(f *fullness) { f.refused, f.providers["fmp"], f.waiting = "full", true, 2 })
	if s.holds("fmp") != "A" || s.holds("fred") != "" {
		t.Fatal("it holds up whose writes were refused")
	}
	s.change("A", func(f *fullness) { f.refused = "" }) // one of two was stored
	if s.holds("fmp") != "" || s.err() != nil {
		t.Fatal("it has room")
	}
	s.change("A", func(f *fullness) { f.figures = "10 of 10 messages" })
	if s.holds("fmp") != "" || s.err() == nil {
		t.Errorf("%v, and it holds up %q", s.err(), s.holds("fmp"))
	}
	s.change("A", func(f *fullness) { f.refused, f.providers["fred"] = "full", true })
	if s.holds("fred") != "A" || s.holds("fmp") != "" {
		t.Error("it holds up whose writes are refused now")
	}
}

// When a stream counts as full: a little before it is, so that what is on its
// way then still finds room; one that forgets its oldest never does.
func TestWhenAStreamIsFull(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		config jetstream.StreamConfig
		state  jetstream.StreamState
		full   bool
	}{
		"no bound":                     {jetstream.StreamConfig{Discard: jetstream.DiscardNew}, jetstream.StreamState{Bytes: 1 << 40, Msgs: 1 << 30}, false},
		"no bound, by the server":      {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: -1, MaxMsgs: -1}, jetstream.StreamState{Bytes: 1 << 40, Msgs: 1 << 30}, false},
		"forgets, beyond its bytes":    {jetstream.StreamConfig{Discard: jetstream.DiscardOld, MaxBytes: mib, MaxMsgs: 1}, jetstream.StreamState{Bytes: mib, Msgs: 1}, false},
		"large, to its kept room":      {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: 1024 * mib}, jetstream.StreamState{Bytes: 1016 * mib}, false},
		"large, into its kept room":    {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: 1024 * mib}, jetstream.StreamState{Bytes: 1016*mib + 1}, true},
		"small, to a sixteenth":        {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: mib}, jetstream.StreamState{Bytes: mib - mib/16}, false},
		"small, into a sixteenth":      {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: mib}, jetstream.StreamState{Bytes: mib - mib/16 + 1}, true},
		"tiny, room for one more":      {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: 4096}, jetstream.StreamState{Bytes: 3072}, false},
		"tiny, and none":               {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: 4096}, jetstream.StreamState{Bytes: 3073}, true},
		"one message less than it may": {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxMsgs: 10}, jetstream.StreamState{Msgs: 9}, false},
		"all that it may":              {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxMsgs: 10}, jetstream.StreamState{Msgs: 10}, true},
	} {
		if got := figuresOf(c.config, c.state); (got != "") != c.full {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A store that has refused a write is full for as long as the write waits for it,
// whatever it says of itself: only trying tells. When nobody is left to try, what
// it says counts.
func TestARefusalCountsWhileSomebodyWaits(t *testing.T) {
	b := brokertest.Start(t)
	s := newStores(b.JS, record.New(b.JS, nil), zap.NewNop())
	s.change(fetchworker.StreamResults, func(f *fullness) { f.refused, f.waiting = "full", 1 })
	if s.look(t.Context()); s.err() == nil || s.holds("fmp") == "" {
		t.Error("it counts as having room while a write waits for it")
	}
	s.change(fetchworker.StreamResults, func(f *fullness) { f.waiting-- })
	if s.look(t.Context()); s.err() != nil || s.holds("fmp") != "" {
		t.Errorf("it counts as full for ever: %v", s.err())
	}
}
