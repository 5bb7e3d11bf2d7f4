package fetch

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
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

// What could not be asked is asked again by the next who wants to know, and by
// nobody for a while once it was told; what is full is known by then.
func TestWhatOneStoreDoesNotSayIsAskedAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		var lines brokertest.Wire
		js, end := b.Through(t, &lines)
		defer end()
		s := newStores(js, record.New(js, nil), zap.NewNop())
		stream, err := b.JS.Stream(t.Context(), fetchworker.StreamResults)
		if err != nil {
			t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		config.MaxMsgs = 1
		if _, err := b.JS.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		if _, err := b.JS.Publish(t.Context(), "fetch.put.fmp.quote.alice.q", nil); err != nil {
			t.Fatal(err)
		}
		lines.Break("STREAM.INFO."+fetchworker.StreamResults, brokertest.RequestLost, 1, 0)
		if err := s.fresh(t.Context()); err != nil || lines.Met() != 1 {
			t.Fatalf("what could not be asked is known: %v", err)
		}
		if err := s.fresh(t.Context()); err == nil || !strings.Contains(err.Error(), fetchworker.StreamResults) {
			t.Errorf("what was not told is not asked again: %v", err)
		}
		var asked atomic.Int32
		sub, err := b.NC.Subscribe("$JS.API.STREAM.INFO.>", func(*nats.Msg) { asked.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		for range 10 {
			if err := s.fresh(t.Context()); err == nil {
				t.Error("it is forgotten")
			}
		}
		synctest.Wait()
		if n := asked.Load(); n != 0 {
			t.Errorf("who has been told a moment ago asks %d times", n)
		}
		time.Sleep(storesEach)
		_ = s.fresh(t.Context())
		synctest.Wait()
		if n := int(asked.Load()); n != len(boundedStreams) {
			t.Errorf("%d of %d are asked a while later", n, len(boundedStreams))
		}
	})
}

// A write that waits for a store says so to all whose work would meet it, and no
// other: until there is room, and no longer.
func TestWhatAWriteMeetsIsKnownWhileItWaits(t *testing.T) {
	s := newStores(nil, nil, zap.NewNop())
	_, changed := s.holding("fmp")
	n := 0
	err := s.write(t.Context(), "fmp", func() error {
		if n++; n < 3 {
			return &record.NoRoomError{Stream: wire.StreamDLQ, Err: errors.New("maximum bytes exceeded")}
		}
		return nil
	}, func(func() error) error {
		if s.holds("fmp") != wire.StreamDLQ || s.holds("fred") != "" {
			t.Errorf("it holds up %q of fmp and %q of fred", s.holds("fmp"), s.holds("fred"))
		}
		if err := s.err(); err == nil || !strings.Contains(err.Error(), wire.StreamDLQ+" is full: maximum bytes exceeded") {
			t.Errorf("it is told as %v", err)
		}
		select {
		case <-changed:
		default:
			t.Error("who waits is not told")
		}
		return nil
	})
	if err != nil || n != 3 || s.err() != nil || s.holds("fmp") != "" || len(s.full) != 0 || !s.busy.Load() {
		t.Errorf("%v after %d writes, %v, and kept: %v", err, n, s.err(), s.full)
	}
	// One who is about to try once more holds up nobody.
	s.change(fetchworker.StreamResults, func(f *fullness) { f.waiting = 1 })
	if s.holds("fmp") != "" || s.room(t.Context(), "fmp") != nil {
		t.Error("a store that has room holds up work")
	}
}

// What is the matter with a store is told, the gravest first.
func TestWhyAStoreTakesNothing(t *testing.T) {
	all := fullness{refused: "what it said", stuck: "no space left", silent: true, figures: "9 of 9 bytes"}
	for _, c := range []struct {
		without func(*fullness)
		want    string
	}{
		{func(*fullness) {}, "what it said"},
		{func(f *fullness) { f.refused = "" }, "no space left"},
		{func(f *fullness) { f.stuck = "" }, "says nothing"},
		{func(f *fullness) { f.silent = false }, "9 of 9 bytes"},
	} {
		if c.without(&all); !strings.Contains(all.why(), c.want) {
			t.Errorf("%q, want %q", all.why(), c.want)
		}
	}
	if all.figures = ""; all.why() != "" {
		t.Errorf("%q where there is room", all.why())
	}
}

// It is said once that a store is full, and once that it has room again.
func TestThatAStoreIsFullIsSaidOnce(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	s := newStores(nil, nil, zap.New(core))
	for range 3 {
		s.change("A", func(f *fullness) { f.refused = "full" })
	}
	s.change("A", func(f *fullness) { f.refused, f.figures = "", "9 of 9 bytes" })
	for range 3 {
		s.change("A", func(f *fullness) { f.figures = "" })
	}
	var said []string
	for _, line := range logs.All() {
		said = append(said, line.Level.String())
	}
	if !slices.Equal(said, []string{"error", "info"}) {
		t.Errorf("said %v", said)
	}
}
