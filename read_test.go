package fetchworker_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
)

// says has direct gets of a stream be answered by the test in the server's place.
func (w *wiredClient) says(stream string, answer func(subject string) *nats.Msg) {
	w.t.Helper()
	s, err := w.JS.Stream(w.t.Context(), stream)
	if err != nil {
		w.t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.AllowDirect = false
	if _, err := w.JS.UpdateStream(w.t.Context(), config); err != nil {
		w.t.Fatal(err)
	}
	prefix := "$JS.API.DIRECT.GET." + stream + "."
	sub, err := w.NC.Subscribe(prefix+">", func(m *nats.Msg) {
		if said := answer(strings.TrimPrefix(m.Subject, prefix)); said != nil {
			if err := m.RespondMsg(said); err != nil {
				w.t.Error(err)
			}
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := w.NC.Flush(); err != nil {
		w.t.Fatal(err)
	}
}

// storedAs is an answer as a direct get of a subject gives it.
func storedAs(subject string, sequence string, a fetchworker.Answer) *nats.Msg {
	m := a.Encode()
	m.Header.Add("Nats-Stream", fetchworker.StreamResults)
	m.Header.Add("Nats-Subject", subject)
	m.Header.Add("Nats-Sequence", sequence)
	return m
}

func status(code, text string) *nats.Msg {
	m := nats.NewMsg("")
	m.Header.Set("Status", code)
	m.Header.Set("Description", text)
	return m
}

// What a server may say to a read, and what a program is told of it.
func TestWhatAServerSaysToARead(t *testing.T) {
	id := identity("q-1")
	subject := fetchworker.ResultSubject(id)
	good := ok(id, `[1]`)
	wired(t, func(t *testing.T, w *wiredClient) {
		var mu sync.Mutex
		var said *nats.Msg
		w.says(fetchworker.StreamResults, func(string) *nats.Msg {
			mu.Lock()
			defer mu.Unlock()
			return said
		})
		for name, c := range map[string]struct {
			said func() *nats.Msg
			want error // nil: none of ours
			ok   bool
		}{
			"the answer": {func() *nats.Msg { return storedAs(subject, "7", good) }, nil, true},
			"another's": {func() *nats.Msg {
				return storedAs(fetchworker.ResultSubject(identity("q-2")), "7", good)
			}, fetchworker.ErrBodyCorrupt, false},
			"one that names another itself, and the server knows better": {func() *nats.Msg {
				m := storedAs("", "", good)
				m.Header["Nats-Subject"] = []string{"fetch.result.fmp.quote.bob.q-1", subject}
				m.Header["Nats-Sequence"] = []string{"9", "7"}
				return m
			}, nil, true},
			"one that says it is this, and the server knows better": {func() *nats.Msg {
				m := storedAs("", "7", good)
				m.Header["Nats-Subject"] = []string{subject, "fetch.result.fmp.quote.bob.q-1"}
				return m
			}, fetchworker.ErrBodyCorrupt, false},
			"nothing is stored":     {func() *nats.Msg { return status("404", "Message Not Found") }, fetchworker.ErrNoAnswer, false},
			"it is busy":            {func() *nats.Msg { return status("503", "Busy") }, nil, false},
			"it was asked too much": {func() *nats.Msg { return status("408", "Empty Request") }, nil, false},
			"no sequence":           {func() *nats.Msg { return storedAs(subject, "none", good) }, nil, false},
			"another body": {func() *nats.Msg {
				m := storedAs(subject, "7", good)
				m.Data = []byte(`[2]`)
				return m
			}, fetchworker.ErrBodyCorrupt, false},
			"no status": {func() *nats.Msg {
				m := storedAs(subject, "7", good)
				m.Header.Del("Fetch-Status")
				return m
			}, nil, false},
			"nothing": {func() *nats.Msg { return nil }, context.DeadlineExceeded, false},
		} {
			mu.Lock()
			said = c.said()
			mu.Unlock()
			began := time.Now()
			a, err := w.Result(until(t, time.Minute), id)
			took := time.Since(began)
			switch {
			case c.ok:
				if err != nil || string(a.Body) != `[1]` || a.Sequence != 7 || a.Identity != id {
					t.Errorf("%s: %+v, %v", name, a, err)
				}
			case err == nil, c.want != nil && !errors.Is(err, c.want), string(a.Body) != "", took > 11*time.Second,
				c.want == nil && (errors.Is(err, fetchworker.ErrNoAnswer) || errors.Is(err, fetchworker.ErrBodyCorrupt)):
				t.Errorf("%s: %q, %v after %v", name, a.Body, err, took)
			}
			// Who waits goes on until there is something good, and is told then what was wrong.
			var pending *fetchworker.PendingError
			a, err = w.Wait(until(t, 20*time.Second), id)
			switch {
			case c.ok:
				if err != nil || string(a.Body) != `[1]` {
					t.Errorf("%s: who waits is told %q, %v", name, a.Body, err)
				}
			case !errors.As(err, &pending) || pending.Identity != id || !errors.Is(err, context.DeadlineExceeded):
				t.Errorf("%s: who waits is told %v", name, err)
			case (pending.Trouble == nil) != errors.Is(c.want, fetchworker.ErrNoAnswer):
				t.Errorf("%s: who waits is told of %v", name, pending.Trouble)
			}
		}
	})
}

// What is wrong with the parts of a body, and what is told of it: what is not there
// yet is looked for, and what is longer than was promised is read no further.
func TestPartsOfABody(t *testing.T) {
	const length = 100
	whole := []byte(strings.Repeat("a", length) + strings.Repeat("b", length) + strings.Repeat("c", length) + strings.Repeat("d", length))
	sum := sha256.Sum256(whole)
	part := func(n int) []byte { return whole[(n-1)*length : n*length] }
	for name, c := range map[string]struct {
		claim func(*fetchworker.Claim)
		said  func(try, n int) *nats.Msg // nil: what is stored
		want  error
		asked int // parts, each once
	}{
		"all there":         {nil, nil, nil, 4},
		"one comes late":    {nil, func(try, n int) *nats.Msg { return missing(n == 3 && try < 9) }, nil, 13},
		"one never comes":   {nil, func(_, n int) *nats.Msg { return missing(n == 3) }, fetchworker.ErrBodyCorrupt, 12},
		"promised less":     {func(c *fetchworker.Claim) { c.Bytes = length - 1 }, nil, fetchworker.ErrBodyCorrupt, 1},
		"promised one less": {func(c *fetchworker.Claim) { c.Bytes = 2*length + 1 }, nil, fetchworker.ErrBodyCorrupt, 3},
		"promised more":     {func(c *fetchworker.Claim) { c.Bytes++ }, nil, fetchworker.ErrBodyCorrupt, 4},
		"another sum":       {func(c *fetchworker.Claim) { c.SHA256 = strings.Repeat("0", 64) }, nil, fetchworker.ErrBodyCorrupt, 4},
		"too few":           {func(c *fetchworker.Claim) { c.Parts-- }, nil, fetchworker.ErrBodyCorrupt, 3},
		"another agent's":   {func(c *fetchworker.Claim) { c.Prefix = "fetch.body.bob.x" }, nil, fetchworker.ErrBodyCorrupt, 0},
		"in another order": {nil, func(_, n int) *nats.Msg {
			return partOf("alice", n, part(5-n))
		}, fetchworker.ErrBodyCorrupt, 4},
	} {
		t.Run(name, func(t *testing.T) {
			wired(t, func(t *testing.T, w *wiredClient) {
				asked, tries := 0, map[int]int{}
				w.says(fetchworker.StreamBodies, func(subject string) *nats.Msg {
					asked++
					n, _ := strconv.Atoi(subject[strings.LastIndexByte(subject, '.')+1:])
					tries[n]++
					if c.said != nil {
						if m := c.said(tries[n]-1, n); m != nil {
							return m
						}
					}
					return partOf("alice", n, part(n))
				})
				a := ok(identity("q-1"), "")
				a.Body, a.Claim = nil, &fetchworker.Claim{Prefix: "fetch.body.alice.x", Parts: 4, Bytes: int64(len(whole)), SHA256: hex.EncodeToString(sum[:])}
				if c.claim != nil {
					c.claim(a.Claim)
				}
				w.service().store(a)
				got, err := w.Wait(until(t, time.Minute), identity("q-1"))
				if c.want == nil && (err != nil || string(got.Body) != string(whole)) || !errors.Is(err, c.want) || asked != c.asked {
					t.Errorf("%d bytes and %v after %d parts, want %v after %d", len(got.Body), err, asked, c.want, c.asked)
				}
				if c.want != nil && got.Body != nil {
					t.Errorf("%d wrong bytes were handed out", len(got.Body))
				}
				if got := w.Held(); got != fetchworker.HeldNothing {
					t.Error(got)
				}
			})
		})
	}
}

func missing(is bool) *nats.Msg {
	if is {
		return status("404", "Message Not Found")
	}
	return nil
}

func partOf(agent string, n int, data []byte) *nats.Msg {
	m := nats.NewMsg("")
	m.Header.Set("Nats-Stream", fetchworker.StreamBodies)
	m.Header.Set("Nats-Subject", fmt.Sprintf("fetch.body.%s.x.%d", agent, n))
	m.Header.Set("Nats-Sequence", "1")
	m.Data = data
	return m
}

// Each request of a bulk is told of once when its time ends, also those that were
// only about to be published.
func TestABulkWhoseTimeEnds(t *testing.T) {
	long := json.RawMessage(`{"symbols":[` + strings.Repeat(`{"a":[1]},`, 5000) + `1]}`)
	for range 5 {
		wired(t, func(t *testing.T, w *wiredClient) {
			w.Break("fetch.request.", brokertest.RequestLost, 1<<20, 0)
			const n = 70 // more than are published at a time
			told := map[string]int{}
			read := 0
			for a, err := range w.FetchAll(until(t, 10*time.Second), func(yield func(fetchworker.Request) bool) {
				for r := range quotes(n) {
					if read >= 64 {
						r.Params = long // what is only being read when the time ends takes a moment
					}
					if !yield(r) {
						return // this one was not wanted any more
					}
					read++
				}
			}) {
				var pending *fetchworker.PendingError
				if told[a.Identity.ID]++; !errors.As(err, &pending) || pending.Identity != a.Identity || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v", a.Identity, err)
				}
			}
			for id, times := range told {
				if times != 1 {
					t.Errorf("%s was told of %d times", id, times)
				}
			}
			if len(told) != read || read < 64 {
				t.Errorf("%d were told of, of %d that were read", len(told), read)
			}
			if got := w.Held(); got != fetchworker.HeldNothing {
				t.Error(got)
			}
		})
	}
}

// A request that is stored, and answered, already is told at once in a bulk too.
func TestADuplicateInABulk(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		if _, err := w.Submit(t.Context(), quote("q-0")); err != nil {
			t.Fatal(err)
		}
		w.service().store(ok(identity("q-0"), `[1]`))
		began := time.Now()
		for a, err := range w.FetchAll(until(t, time.Minute), quotes(1)) {
			if took := time.Since(began); err != nil || string(a.Body) != `[1]` || took > 10*time.Millisecond {
				t.Errorf("%q, %v after %v", a.Body, err, took)
			}
		}
	})
}

// Bodies that came while nobody took any are bounded, and all are there when they
// are taken.
func TestABulkThatNobodyTakes(t *testing.T) {
	s := startService(t)
	const n, size = 70, 500 << 10 // more than is held
	body := `"` + strings.Repeat("x", size) + `"`
	s.onRequest(func(r fetchworker.Request) { s.store(ok(r.Identity(), body)) })
	alice := s.client("alice")
	seen := map[string]bool{}
	for a, err := range alice.FetchAll(soon(t), quotes(n)) {
		if len(seen) == 0 { // the others come meanwhile
			for all := false; !all; time.Sleep(10 * time.Millisecond) {
				stream, err := s.JS.Stream(t.Context(), fetchworker.StreamResults)
				if err != nil {
					t.Fatal(err)
				}
				all = stream.CachedInfo().State.Msgs == n
			}
		}
		if err != nil || len(a.Body) != len(body) || seen[a.Identity.ID] {
			t.Errorf("%s, again: %t: %d bytes, %v", a.Identity, seen[a.Identity.ID], len(a.Body), err)
		}
		seen[a.Identity.ID] = true
	}
	if len(seen) != n || alice.Held() != fetchworker.HeldNothing {
		t.Errorf("%d answers, %s", len(seen), alice.Held())
	}
}

// What was read from the store does not come again live, whatever is stored while
// a program takes its time, nor does what came live come again from the store.
func TestAFollowerIsToldOnce(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		s := w.service()
		s.store(ok(identity("a"), `[1]`))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var told []string
		steps := map[string]func(){
			"a": func() { s.store(ok(identity("b"), `[1]`)); s.store(ok(identity("c"), `[1]`)) }, // live, and in the next page
			"c": func() { w.silent(); s.store(ok(identity("d"), `[1]`)) },                        // lost: the store is read in half a minute
			"d": func() { w.Mend(); s.store(ok(identity("e"), `[1]`)) },
			"e": func() { // late: read before it comes
				w.BreakSaid("fetch.result.", brokertest.ReplyLate, 1, time.Minute)
				s.store(ok(identity("f"), `[1]`))
			},
			"f": func() { s.store(waiting(identity("g"))) },
			"g": func() { time.AfterFunc(2*time.Minute, stop) },
		}
		for a, err := range w.Answers(ctx, 0) {
			if err != nil {
				t.Fatal(err)
			}
			told = append(told, a.Identity.ID)
			if do := steps[a.Identity.ID]; do != nil {
				do()
				delete(steps, a.Identity.ID)
			}
			time.Sleep(time.Second)
		}
		if want := []string{"a", "b", "c", "d", "e", "f", "g"}; !slices.Equal(told, want) {
			t.Errorf("told %v", told)
		}
		if got := w.Held(); got != fetchworker.HeldNothing {
			t.Error(got)
		}
	})
}
