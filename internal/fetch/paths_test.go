package fetch_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/wire"
)

// Nobody is called for a request that has its end before its turn, whatever
// that is, and the end is told.
func TestNobodyIsCalledForWhatHasItsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(r *rig) fetchworker.Identity // before a worker runs
		calls   int
		code    fetchworker.Code
	}{
		"its deadline has passed": {func(r *rig) fetchworker.Identity {
			id := r.quote("alice", "q", "AAPL", `,"ttl":"5s"`)
			time.Sleep(10 * time.Second)
			return id
		}, 0, fetchworker.CodeDeadlineExceeded},
		"its life has ended": {func(r *rig) fetchworker.Identity {
			r.maxLife = time.Minute
			id := r.quote("alice", "q", "AAPL", "")
			time.Sleep(2 * time.Minute)
			return id
		}, 0, fetchworker.CodeRetriesExhausted},
		"its agent has not the right": {func(r *rig) fetchworker.Identity {
			r.env["FETCH_RIGHTS"] = filepath.Join(r.t.TempDir(), "rights.yaml")
			if err := os.WriteFile(r.env["FETCH_RIGHTS"], []byte("agents:\n  alice: []\n"), 0o600); err != nil {
				r.t.Fatal(err)
			}
			return r.quote("alice", "q", "AAPL", `,"use":["export"]`)
		}, 0, fetchworker.CodeRightsViolation},
		"its letter was released, and its failed answer stands": {func(r *rig) fetchworker.Identity {
			stop := r.start(nil)
			id := r.quote("alice", "q", "NONE", "")
			r.final(id, 5*time.Second)
			stop()
			now := time.Now()
			l := dlq.Letter{
				Identity: id, Lane: fetchworker.LaneInteractive, Generation: 1, Class: wire.ClassPaused,
				Body: []byte(`{"id":"q","params":{"symbol":"NONE"}}`), RequestedAt: now, FailedAt: now, NotBefore: now,
			}
			if _, err := r.b.JS.PublishMsg(r.t.Context(), l.Replayed()); err != nil {
				r.t.Fatal(err)
			}
			return id
		}, 1, fetchworker.CodeNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.upstream.Fallback = respond(404, `{"Error Message":"none"}`)
				r.start(nil)() // the consumers are there
				id := c.prepare(r)
				stop := r.start(nil)
				defer stop()
				r.drained(fetchworker.StreamRequests, 0, 10*time.Second)
				r.drained(wire.StreamReplay, 0, 10*time.Second)
				if c.code == fetchworker.CodeRetriesExhausted { // a person sees it: the replayer answers
					if raw, ok := r.letter(fetchworker.LaneInteractive, id); !ok || raw.Header.Get(wire.HeaderErrorClass) != string(wire.ClassExpired) {
						t.Errorf("letter %v", raw.Header)
					}
				} else if a := r.final(id, 5*time.Second); a.Problem == nil || a.Problem.Code() != c.code {
					t.Errorf("%+v %+v", a, a.Problem)
				}
				if n := len(r.upstream.Calls()); n != c.calls {
					t.Errorf("%d calls, want %d", n, c.calls)
				}
			})
		})
	}
}

// A request whose failed answer was stored when its worker stumbled is not
// called again, also where it has no id of its own.
func TestWhatBeginsAnewFindsItsAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = respond(404, `{"Error Message":"none"}`)
		hook, crashed := crashOnce("answer", true)
		defer r.start(hook)()
		r.ask("fetch.request.fmp.interactive.quote.alice", "", `{"params":{"symbol":"NONE"}}`)
		r.drained(fetchworker.StreamRequests, 0, 8*time.Second) // before the server would give it to another
		if n := len(r.upstream.Calls()); n != 1 || !crashed() {
			t.Errorf("%d calls, crashed %t", n, crashed())
		}
	})
}

// Who waits for an identical call waits to its own deadline, not to the call's.
func TestAFollowersDeadlineIsItsOwn(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.upstream.SetLatency(4 * time.Second)
		defer r.start(nil)()
		first := r.quote("alice", "first", "AAPL", "")
		time.Sleep(500 * time.Millisecond)
		second := r.quote("bob", "second", "AAPL", `,"ttl":"1s"`)
		if a := r.final(second, 1500*time.Millisecond); a.Problem == nil || a.Problem.Code() != fetchworker.CodeDeadlineExceeded {
			t.Errorf("%+v", a)
		}
		if a := r.final(first, 10*time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
	})
}

// A request waits for its permit to the end of its life, and no longer.
func TestALifeEndsWhileItsRequestWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
		r.maxLife = 20 * time.Second
		defer r.start(nil)()
		r.final(r.quote("alice", "first", "AAPL", ""), 10*time.Second)
		asked := time.Now()
		id := r.quote("alice", "second", "MSFT", "")
		r.drained(wire.StreamDLQ, 1, time.Minute)
		if took := time.Since(asked); took < 20*time.Second || took > 22*time.Second {
			t.Errorf("its life ended after %v", took)
		}
		if raw, _ := r.letter(fetchworker.LaneInteractive, id); raw.Header.Get(wire.HeaderErrorClass) != string(wire.ClassExpired) {
			t.Errorf("letter %v", raw.Header)
		}
	})
}

// What stopped its worker in three runs of its own is not run a fourth time,
// and what did in two is; what came to nothing four times is no suspect.
func TestWhenASuspectIsOneAndWhenItIsPoison(t *testing.T) {
	for name, c := range map[string]struct {
		lost   int // deliveries
		deaths string
		alone  bool
		poison bool
	}{
		"four lost":                    {4, "", false, false},
		"five lost":                    {5, "", true, false},
		"five, one of them given back": {5, `{"handed_back":1}`, false, false},
		"five lost and two deaths":     {5, `{"running":["gone","gone"]}`, true, false},
		"five lost and three deaths":   {5, `{"running":["gone","gone","gone"]}`, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.well()
				r.start(nil)()
				id := r.quote("alice", "q", "AAPL", "")
				r.vanish(c.lost)
				if c.deaths != "" {
					if _, err := r.b.KV.PutString(t.Context(), "suspect."+fetchworker.StreamRequests+".1", c.deaths); err != nil {
						t.Fatal(err)
					}
				}
				raised, unwatch := r.running()
				defer unwatch()
				defer r.start(nil)()
				r.drained(fetchworker.StreamRequests, 0, 30*time.Second)
				if (len(raised()) > 0) != c.alone {
					t.Errorf("ran alone: %v", raised())
				}
				if n := len(r.upstream.Calls()); (n == 0) != c.poison {
					t.Errorf("%d calls", n)
				}
				if raw, ok := r.letter(fetchworker.LaneInteractive, id); ok != c.poison || ok && raw.Header.Get(wire.HeaderErrorClass) != string(wire.ClassPoison) {
					t.Errorf("letter %v", raw.Header)
				}
			})
		})
	}
}
