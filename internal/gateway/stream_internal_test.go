package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
)

// A feed beside its model, the list of all events: what it remembers is the
// newest of them within both bounds, whoever asks from a place gets what comes
// there and nothing else, and who asks for what is forgotten is told so.
func TestAFeedIsTheEndOfAllEvents(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	large := bytes.Repeat([]byte("x"), 3<<20)
	f := newFeed(nil)
	f.round = 7
	var all []event // by place
	newest := uint64(0)
	for step := range 12_000 {
		size := dice.IntN(100)
		if step > 6000 { // few of them fill it
			size = dice.IntN([]int{100, 64 << 10, len(large)}[dice.IntN(3)])
		}
		e := event{sequence: uint64(dice.IntN(20_000)), text: large[:size]}
		all, newest = append(all, e), max(newest, e.sequence)
		changed := f.changed
		f.change(7, func() { f.remember(e) })
		select {
		case <-changed:
		default:
			t.Fatal("nobody is told of an event")
		}
		if n := len(f.events); n > feedEvents || n > 1 && f.bytes > feedBytes || n == 0 {
			t.Fatalf("%d events of %d bytes are remembered", n, f.bytes)
		}
		if f.next() != len(all) || f.newest != newest {
			t.Fatalf("the next place is %d of %d, the newest %d of %d", f.next(), len(all), f.newest, newest)
		}
		place := len(all) - dice.IntN(min(len(all), 1200)+1)
		some, behind, _, err := f.from(place)
		there := all[place:]
		switch {
		case err != nil:
			t.Fatal(err)
		case behind && (len(some) > 0 || place >= f.first):
			t.Fatalf("who asks from %d is told to be behind, and gets %d", place, len(some))
		case !behind && place < f.first:
			t.Fatalf("who asks from %d is not told that all below %d is forgotten", place, f.first)
		case !behind && (len(some) != min(len(there), 64) || !slices.EqualFunc(some, there[:len(some)], func(a, b event) bool { return a.sequence == b.sequence && len(a.text) == len(b.text) })):
			t.Fatalf("from %d come %d events, of %d", place, len(some), len(there))
		}
	}
	// Bytes are those of what is remembered: else nothing would be, in time.
	sum := 0
	for _, e := range f.events {
		sum += len(e.text)
	}
	if sum != f.bytes {
		t.Errorf("%d bytes count as %d", sum, f.bytes)
	}
	// A run that was ended changes nothing any more.
	before, changed := f.next(), f.changed
	f.change(6, func() { f.remember(event{sequence: 1}) })
	f.change(8, func() { f.err = io.EOF })
	if f.next() != before || f.err != nil || f.changed != changed {
		t.Error("another run than the present one changes it")
	}
}

// An event holds a body that is JSON and small, and says how large any is.
func TestWhatAnEventHolds(t *testing.T) {
	exactly := func(n int) []byte { return []byte(`"` + strings.Repeat("x", n-2) + `"`) }
	for name, c := range map[string]struct {
		a    fetchworker.Answer
		size int64
		body bool
	}{
		"small":     {fetchworker.Answer{Body: []byte(`{"a":1}`)}, 7, true},
		"the most":  {fetchworker.Answer{Body: exactly(8 << 10)}, 8 << 10, true},
		"too large": {fetchworker.Answer{Body: exactly(8<<10 + 1)}, 8<<10 + 1, false},
		"no JSON":   {fetchworker.Answer{Body: []byte("a\n\ndata: b")}, 10, false},
		"none":      {fetchworker.Answer{}, 0, false},
		"claimed":   {fetchworker.Answer{Claim: &fetchworker.Claim{Bytes: 3 << 20}}, 3 << 20, false},
		"lines":     {fetchworker.Answer{Body: []byte("{\n\n\"a\":\n1}")}, 10, true},
	} {
		c.a.Identity, c.a.Sequence = fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}, 17
		e := eventOf(c.a)
		lines := strings.Split(strings.TrimSuffix(string(e.text), "\n\n"), "\n")
		var told answerEvent
		if len(lines) != 3 || lines[0] != "id: 17" || lines[1] != "event: answer" || json.Unmarshal([]byte(strings.TrimPrefix(lines[2], "data: ")), &told) != nil {
			t.Errorf("%s: %s", name, e.text)
		}
		if e.sequence != 17 || told.Bytes != c.size || (len(told.Body) > 0) != c.body {
			t.Errorf("%s: %d bytes, %.50s", name, told.Bytes, told.Body)
		}
	}
}

// What a stream has from the store it does not send again from the feed.
func TestWhatWasReadIsNotSentAgain(t *testing.T) {
	b := brokertest.Start(t)
	client, err := fetchworker.NewClient(b.NC, anybody)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	g := &Gateway{config: Config{patience: usual}}
	w := httptest.NewRecorder()
	s := &stream{g: g, read: 5, c: &call{w: g.newWriter(w), r: httptest.NewRequest(http.MethodGet, "/", nil), ctx: t.Context(), agent: &agent{Client: client}}}
	for _, sequences := range [][]uint64{{3, 5}, {6, 4}, {}, {7, 8}} {
		var some []event
		for _, n := range sequences {
			some = append(some, event{n, fmt.Appendf(nil, "%d ", n)})
		}
		if err := s.send(some); err != nil {
			t.Fatal(err)
		}
	}
	if w.Body.String() != "6 7 8 " || s.sent != 8 || s.place != 6 {
		t.Errorf("%s was sent, up to %d and the place %d", w.Body, s.sent, s.place)
	}
}
