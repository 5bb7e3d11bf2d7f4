package tools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"
)

// Whoever follows what a view says of what it leaves out sees every row once,
// and no view is larger than its room.
func TestFollowingWhatIsLeftOutEveryRowIsSeen(t *testing.T) {
	dice := rand.New(rand.NewPCG(3, 4))
	for range 40 {
		n, most := dice.IntN(120), 10<<dice.IntN(8)
		rows := make([]string, n)
		for i := range rows {
			rows[i] = fmt.Sprintf(`{"n":%d,"odd":%t,"pad":%q}`, i, i%2 == 1, strings.Repeat("x", dice.IntN(most)))
		}
		body := []byte("[" + strings.Join(rows, ",") + "]")
		room := 800 + dice.IntN(6000)
		for _, search := range []string{"", `"odd":true`} {
			var seen []int
			for next, looks := "", 0; ; looks++ {
				if looks > 2*n+2 {
					t.Fatalf("no end after %d looks", looks)
				}
				q, err := newQuery("", next, search)
				if err != nil {
					t.Fatal(err)
				}
				v, err := look(body, "application/json", q, room)
				if err != nil {
					t.Fatal(err)
				}
				if n := cost(v.Body); n > room+400 {
					t.Fatalf("%d bytes where there is room for %d", n, room)
				}
				var some []struct {
					N     *int `json:"n"`
					Value struct {
						N *int `json:"n"`
					} `json:"value"`
				}
				if err := json.Unmarshal(v.Body, &some); err != nil {
					t.Fatalf("%v: %s", err, v.Body)
				}
				for _, one := range some {
					if one.N == nil {
						one.N = one.Value.N
					}
					if one.N == nil {
						t.Fatalf("a row is shown without its number: %s", v.Body)
					}
					seen = append(seen, *one.N)
				}
				if v.Of != n {
					t.Fatalf("%d of %d rows", v.Of, n)
				}
				_, rest, more := strings.Cut(v.LeftOut, `rows "`)
				if next, _, _ = strings.Cut(rest, `"`); !more {
					break
				}
				if len(some) == 0 {
					t.Fatalf("nothing is shown, and %s", v.LeftOut)
				}
			}
			want := n
			if search != "" {
				want = n / 2
			}
			if len(seen) != want {
				t.Fatalf("%d rows are seen, of %d", len(seen), want)
			}
			for i, at := range seen {
				if search == "" && at != i || search != "" && at != 2*i+1 {
					t.Fatalf("row %d is seen as the %dth", at, i)
				}
			}
		}
	}
}

// What a model asks for is bounded, and what it says wrongly is told.
func TestWhatAModelAsksFor(t *testing.T) {
	for given, want := range map[int]time.Duration{-5: 0, 0: 0, 1: time.Second, 50: 50 * time.Second, 51: 50 * time.Second, 1 << 30: 50 * time.Second} {
		if got := waitOf(new(whole(given)), time.Hour); got != want {
			t.Errorf("wait %d: %v", given, got)
		}
	}
	if got := waitOf(nil, 20*time.Second); got != 20*time.Second {
		t.Error(got)
	}
	for tokens, want := range map[whole]int{0: 29_000, -1: 600, 1: 600, 500: 600, 1000: 1000, 8000: 29_000, 40_000: 157_000, 1 << 40: 157_000} {
		if got := room(tokens); got != want {
			t.Errorf("%d tokens: room for %d", tokens, got)
		}
	}
	for text, want := range map[string]int{`5`: 5, `"5"`: 5, `5.0`: 5, `-1`: -1, `5.5`: 99, `"x"`: 99, `[]`: 99, `1e3`: 1000} {
		n := whole(99)
		if err := json.Unmarshal([]byte(text), &n); int(n) != want || (err != nil) != (want == 99) {
			t.Errorf("%s: %d, %v", text, n, err)
		}
	}
	for _, c := range []struct {
		in         fetchInput
		age, stale string
		field      string
	}{
		{fetchInput{}, "", "", ""},
		{fetchInput{MaxAge: "0s", MaxStale: "24h"}, "0s", "24h0m0s", ""},
		{fetchInput{MaxAge: "-1s"}, "", "", "max_age"},
		{fetchInput{MaxStale: "soon"}, "", "", "max_stale"},
	} {
		r, err := c.in.request()
		var wrong *fetchworker.RequestError
		if errors.As(err, &wrong) != (c.field != "") || wrong != nil && wrong.Field != c.field {
			t.Errorf("%+v: %v", c.in, err)
			continue
		}
		text := func(d *fetchworker.Duration) string {
			if d == nil {
				return ""
			}
			return time.Duration(*d).String()
		}
		if err == nil && (text(r.MaxAge) != c.age || text(r.MaxStale) != c.stale) {
			t.Errorf("%+v: %s, %s", c.in, text(r.MaxAge), text(r.MaxStale))
		}
	}
	for params, want := range map[string]string{`{"a":1}`: `{"a":1}`, `"{\"a\":1}"`: `{"a":1}`, ``: ``} {
		if r, err := (fetchInput{Params: json.RawMessage(params)}).request(); err != nil || string(r.Params) != want {
			t.Errorf("%s: %s, %v", params, r.Params, err)
		}
	}
	for arguments, good := range map[string]bool{
		`{"provider":"p","operation":"o","id":"i"}`: true, `{"provider":"p","operation":"o"}`: false, `{"provider":"p","operation":"o","id":null}`: false,
		`{"provider":"p","operation":"o","id":"i","rows":null}`: true, `{"provider":"p","operation":"o","id":"i","x":1}`: false, `[]`: false, ``: false, `{"provider":1,"operation":"o","id":"i"}`: false,
	} {
		var in readInput
		if err := decode(json.RawMessage(arguments), &in, []string{"provider", "operation", "id"}); (err == nil) != good || good && in.ID != "i" {
			t.Errorf("%s: %+v, %v", arguments, in, err)
		}
	}
}

// How a provider stands, and what is found by words.
func TestWhatIsToldOfProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		p := fetchworker.Catalogue{Provider: "fmp", Configured: true, Now: &fetchworker.Standing{
			At: now, Reason: fetchworker.ReasonPaused, RetryAt: now.Add(time.Minute), NextAt: now,
			Limits: []fetchworker.WindowLeft{{Calls: 5, Per: fetchworker.Duration(time.Second), Left: 2}},
		}}
		s := standing(p)
		if s.Unserved || s.Waits != fetchworker.ReasonPaused || !s.RetryAt.Equal(now.Add(time.Minute)) || !s.NextAt.IsZero() || len(s.Left) != 1 || s.Left[0] != "2 of 5 per 1s" {
			t.Errorf("%+v", s)
		}
		p.Configured, p.Now.NextAt = false, now.Add(time.Second)
		if s = standing(p); !s.Unserved || !s.NextAt.Equal(now.Add(time.Second)) {
			t.Errorf("%+v", s)
		}
	})
	operation := fetchworker.CatalogueOperation{Name: "quote", Path: "/v3/quotes/{symbol}", Params: json.RawMessage(`{"type":"object","properties":{"symbol":{},"limit":{}},"required":["symbol"]}`)}
	p := fetchworker.Catalogue{Provider: "fmp", Operations: []fetchworker.CatalogueOperation{operation}}
	last := 1 << 20
	for _, word := range []string{"quote", "fmp", "quo", "v3q", "symbols", "nothing"} {
		n := score([]string{word}, p, operation)
		if word == "v3q" { // no part of a word
			if n != 0 {
				t.Errorf("%s: %d", word, n)
			}
			continue
		}
		if n >= last || (n == 0) != (word == "nothing") {
			t.Errorf("%s scores %d, after %d", word, n, last)
		}
		last = n
	}
	served := p
	served.Configured = true
	if score([]string{"quote"}, served, operation) <= score([]string{"quote"}, p, operation) || score([]string{"nothing"}, served, operation) != 0 {
		t.Error("what can be asked does not come first")
	}
	if got := briefly(operation.Params); got != "symbol*, limit" {
		t.Error(got)
	}
	// However many providers there are, what is told of them has room.
	for _, many := range []int{1, 50, 2000} {
		var all []fetchworker.Catalogue
		for n := range many {
			one := fetchworker.Catalogue{Provider: fmt.Sprint("provider-", n), Configured: true}
			for o := range 80 {
				one.Operations = append(one.Operations, fetchworker.CatalogueOperation{Name: fmt.Sprint("operation-", o)})
			}
			all = append(all, one)
		}
		text, err := json.Marshal(overview(all))
		if err != nil || cost(text) > 4*standardTokens {
			t.Errorf("%d providers: %d, %v", many, cost(text), err)
		}
		var told struct {
			Providers []struct {
				Operations []string `json:"operations"`
				More       int      `json:"more"`
			} `json:"providers"`
			Hint string `json:"hint"`
		}
		if err := json.Unmarshal(text, &told); err != nil {
			t.Fatal(err)
		}
		for _, one := range told.Providers {
			if len(one.Operations)+one.More != 80 {
				t.Errorf("%d of 80 operations are named, and %d more", len(one.Operations), one.More)
			}
		}
		if left := many - len(told.Providers); left > 0 && !strings.Contains(told.Hint, fmt.Sprintf("%d more providers", left)) {
			t.Errorf("%d providers are left out silently", left)
		}
	}
}

// A body that is too large is not looked into, and one that cannot be read holds
// nobody's place.
func TestABodyThatCannotBeReadHoldsNoPlace(t *testing.T) {
	b := brokertest.Start(t)
	client, err := fetchworker.NewClient(b.NC, "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	all := &tools{reading: make(chan struct{}, 2)}
	a := fetchworker.Answer{
		Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"},
		Claim:    &fetchworker.Claim{Prefix: wire.BodyPrefix("alice", strings.Repeat("ab", 32)), Parts: 2, Bytes: 2 << 20, SHA256: strings.Repeat("ab", 32)},
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 5 {
		if _, _, err := all.body(gone, client, a); err == nil {
			t.Error("a body that is not there")
		}
	}
	if len(all.reading) != 0 {
		t.Errorf("%d places are held", len(all.reading))
	}
	a.Claim.Bytes = mostRead + 1
	if _, _, err := all.body(t.Context(), nil, a); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Error(err)
	}
	all.reading <- struct{}{}
	all.reading <- struct{}{}
	a.Claim.Bytes = mostRead
	if _, _, err := all.body(gone, nil, a); !errors.Is(err, context.Canceled) {
		t.Errorf("who waits for a place: %v", err)
	}
}
