package fetchworker_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
func storedAs(subject, sequence string, a fetchworker.Answer) *nats.Msg {
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
	wired(t, func(t *testing.T, w *wiredClient) {
		const n, size = 20, 1000
		body := `"` + strings.Repeat("x", size-2) + `"`
		w.service().onRequest(func(r fetchworker.Request) { w.service().store(ok(r.Identity(), body)) })
		seen := map[string]bool{}
		reads := uint64(0)
		for a, err := range w.FetchAllHolding(until(t, time.Minute), quotes(n), n, 5*size) {
			if len(seen) == 0 {
				time.Sleep(time.Second) // the others come meanwhile
				reads = w.nc.Stats().OutMsgs
			}
			if err != nil || string(a.Body) != body || seen[a.Identity.ID] {
				t.Errorf("%s, again: %t: %d bytes, %v", a.Identity, seen[a.Identity.ID], len(a.Body), err)
			}
			seen[a.Identity.ID] = true
		}
		// The first was taken before the others came, and five of those were held.
		if reads = w.nc.Stats().OutMsgs - reads; len(seen) != n || reads != n-1-5 {
			t.Errorf("%d answers, %d of them read again", len(seen), reads)
		}
		if got := w.Held(); got != fetchworker.HeldNothing {
			t.Error(got)
		}
	})
}

// One who follows is told each answer once, and when: live as it comes, of what was
// lost at once where the client knows that something was, and in half a minute where
// it does not. What is stored while a program takes its time, or comes late, does not
// come twice; a read that fails is made again.
func TestAFollowerIsToldOnce(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		s := w.service()
		store := func(id string) func() { return func() { s.store(ok(identity(id), `[1]`)) } }
		steps := []struct {
			id   string
			do   func()
			most time.Duration
		}{
			{"live", func() {}, 0},
			{"lost", w.silent, rereadAfter},
			{"live again", w.Mend, 0},
			{"while there was no connection", func() { w.Cut(); time.AfterFunc(time.Second, w.Join) }, 4 * time.Second},
			{"late", func() { w.BreakSaid("fetch.result.", brokertest.ReplyLate, 1, 2*time.Second) }, 2 * time.Second},
			{"twice", func() { w.BreakSaid("fetch.result.", brokertest.Twice, 1, 0) }, 0},
			{"later than it is read", func() { w.BreakSaid("fetch.result.", brokertest.ReplyLate, 1, time.Minute) }, rereadAfter},
			{"lost, and the read as well", func() {
				w.BreakSaid("fetch.result.", brokertest.Lost, 1, 0)
				w.Break("DIRECT.GET", brokertest.ReplyLost, 1, 0)
			}, rereadAfter + 12*time.Second},
			{"live at last", func() {}, 0},
		}
		began := time.Now()
		for i, step := range steps {
			time.AfterFunc(time.Duration(i+1)*2*time.Minute, func() {
				step.do()
				store(strings.ReplaceAll(strings.ReplaceAll(step.id, " ", "-"), ",", ""))()
			})
		}
		s.store(ok(identity("stored"), `[1]`))
		ctx, stop := context.WithTimeout(t.Context(), time.Duration(len(steps)+2)*2*time.Minute)
		defer stop()
		w.Break("DIRECT.GET", brokertest.RequestLost, 1, 0) // the first
		told := map[string]time.Duration{}
		times := 0
		for a, err := range w.Answers(ctx, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if a.Identity.ID == "stored" {
				store("meanwhile")() // live, and in the next page
				time.Sleep(time.Second)
			}
			times++
			told[a.Identity.ID] = time.Since(began)
		}
		if told["stored"] == 0 || told["stored"] > 13*time.Second || told["meanwhile"] == 0 || told["meanwhile"] > 15*time.Second {
			t.Errorf("what was stored came after %v and %v", told["stored"], told["meanwhile"])
		}
		for i, step := range steps {
			at, is := told[strings.ReplaceAll(strings.ReplaceAll(step.id, " ", "-"), ",", "")]
			if late := at - time.Duration(i+1)*2*time.Minute; !is || late > step.most+10*time.Millisecond {
				t.Errorf("%s: told %t, after %v", step.id, is, late)
			}
		}
		if times != len(steps)+2 {
			t.Errorf("told %d times of %d answers", times, len(steps)+2)
		}
		if got := w.Held(); got != fetchworker.HeldNothing {
			t.Error(got)
		}
	})
}

const rereadAfter = 30 * time.Second

// What nobody can read is passed over once, not begun with again and again.
func TestWhatCannotBeReadIsPassedOver(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.service().store(ok(identity("a"), `[1]`))
		bad := ok(identity("bad"), `[1]`).Encode()
		bad.Header.Set("Fetch-Status", "of another version")
		bad.Header.Set("Fetch-Generation", "1")
		ack, err := w.JS.PublishMsg(t.Context(), bad)
		if err != nil {
			t.Fatal(err)
		}
		page, read, err := w.AnswersAfter(t.Context(), 0)
		if err != nil || len(page) != 1 || read != ack.Sequence {
			t.Errorf("%d answers, read up to %d of %d, %v", len(page), read, ack.Sequence, err)
		}
		page, again, err := w.AnswersAfter(t.Context(), read)
		if err != nil || len(page) != 0 || again != read {
			t.Errorf("and then %d answers, read up to %d, %v", len(page), again, err)
		}
	})
}

// A page of stored answers has its bounds in bytes, too, and all are read in the end.
func TestAPageHasItsBounds(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		const n, size = 12, fetchworker.MaxInlineBody
		body := strings.Repeat("x", size)
		for i := range n {
			w.service().store(ok(identity(fmt.Sprint("q-", i)), body))
		}
		after, all, pages := uint64(0), 0, 0
		for {
			page, read, err := w.AnswersAfter(t.Context(), after)
			if err != nil {
				t.Fatal(err)
			}
			if read == after {
				break
			}
			if len(page) == 0 || len(page)*size > 4<<20+size {
				t.Errorf("a page of %d answers", len(page))
			}
			after, all, pages = read, all+len(page), pages+1
		}
		if all != n || pages < 2 {
			t.Errorf("%d answers in %d pages", all, pages)
		}
	})
}
