package fetch

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/cache"
	"fetchworker/internal/memory"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"go.uber.org/zap"
)

// stored is the answer that stands for a request, nil if none does.
func (s *steps) stored(r *request) *fetchworker.Answer {
	s.t.Helper()
	raw, err := record.New(s.b.JS, nil).Last(s.t.Context(), fetchworker.StreamResults, fetchworker.ResultSubject(r.Identity))
	if err != nil {
		return nil
	}
	a, err := fetchworker.DecodeAnswer(raw.Subject, raw.Header, raw.Data)
	if err != nil {
		s.t.Fatal(err)
	}
	return &a
}

// spend uses up so many percent of the month's bytes, which are a GB.
func (s *steps) spend(percent int64) {
	gate := s.served["fmp"].Gate
	gate.AddBytes(percent * (1 << 30) / 100)
	time.Sleep(2 * time.Second) // until that is known
}

// big is a body that waits for its memory, kept for whoever asks for a quote: by
// another worker of the fleet, or by this one.
func (s *steps) big(key string, age time.Duration) {
	s.t.Helper()
	other, err := cache.New(s.b.JS, s.b.JS, nil, zap.NewNop(), func() {})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); other.Run(ctx) }()
	now := time.Now()
	body := []byte(`[{"symbol":"AAPL","pad":"` + strings.Repeat("x", 2<<20) + `"}]`)
	other.Put(key, &cache.Entry{FetchedAt: now.Add(-age), CameAt: now.Add(-age), HTTPStatus: 200, ContentType: "application/json", Body: body})
	time.Sleep(time.Second)
	stop()
	<-done
	other.Close()
}

// Near the end of the month's bytes an old body is the answer, and the permit is
// for others before that body waits for its memory; where it is not kept any more
// the request asks for another permit, if it may still be called.
func TestWhoIsBeyondTheBytesLetsGoOfItsPermitFirst(t *testing.T) {
	for name, c := range map[string]struct {
		spent  int64 // of the month's bytes, percent
		kept   bool  // the old body, by now
		letGo  int
		done   bool
		waited bool
		status fetchworker.Status
	}{
		"enough is left":             {spent: 90, kept: true},
		"nearly all, and a body":     {spent: 96, kept: true, letGo: 1, done: true, status: fetchworker.StatusStale},
		"nearly all, and no more":    {spent: 96, letGo: 1, waited: true},
		"all of it, and a body":      {spent: 101, kept: true, letGo: 1, done: true, status: fetchworker.StatusStale},
		"all of it, and none is any": {spent: 101, letGo: 1, done: true, status: fetchworker.StatusFailed},
	} {
		t.Run(name, func(t *testing.T) {
			stepping(t, func(t *testing.T, s *steps) {
				s.env["FMP_BANDWIDTH_LIMIT_GB"] = "1"
				s.room = memory.New(16 << 20)
				r := s.request(s.take("q", "AAPL", `,"max_stale":"24h"`))
				s.big(r.call.Key, 2*time.Hour)
				s.spend(c.spent)
				if done, err := s.cached(t.Context(), r, nil); done || err != nil || r.cache == nil || r.cache.Body != nil {
					t.Fatalf("%t %v: the old body has not been left in the cache: %v", done, err, r.cache)
				}
				if !c.kept {
					kv, err := s.b.JS.KeyValue(t.Context(), wire.BucketCache)
					if err != nil {
						t.Fatal(err)
					}
					keys, err := kv.Keys(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					for _, key := range keys {
						if err := kv.Purge(t.Context(), key); err != nil {
							t.Fatal(err)
						}
					}
				}
				letGo := 0
				done, waited, err := s.overBudget(t.Context(), r, func() {
					if letGo++; s.stored(r) != nil {
						t.Error("it lets go when it has its end")
					}
				})
				if done != c.done || waited != c.waited || letGo != c.letGo || err != nil {
					t.Errorf("done %t, waited %t, let go %d times, %v", done, waited, letGo, err)
				}
				switch a := s.stored(r); {
				case !c.done && a != nil:
					t.Errorf("answered %+v", a)
				case c.done && (a == nil || a.Status != c.status || !a.Final):
					t.Errorf("answered %+v", a)
				}
				if c.waited && r.cache != nil && r.cache.Body != nil {
					t.Error("a large body waits with its request")
				}
			})
		})
	}
}

// Who lets go of its permit, because what it looks at has to wait, makes no call
// with it; nor does who could not look.
func TestWhoHasLetGoOfItsPermitMakesNoCall(t *testing.T) {
	for name, c := range map[string]struct {
		spent   int64
		wanted  string // of the request
		waited  time.Duration
		redo    bool   // it was delivered before
		left    bool   // the stop comes while it waits; not: what it waits for
		no      string // subject of what the server never hears
		again   bool
		fails   bool
		calls   int
		settled bool // it has its end
	}{
		"nothing is at hand":                     {waited: time.Second, calls: 1, settled: true},
		"a young body waits for its memory":      {waited: time.Second, wanted: `,"max_age":"24h"`, left: true, again: true},
		"and comes":                              {waited: time.Second, wanted: `,"max_age":"24h"`, settled: true},
		"an old one for the month's end":         {waited: time.Second, wanted: `,"max_stale":"24h"`, spent: 96, left: true, again: true},
		"and comes, too":                         {waited: time.Second, wanted: `,"max_stale":"24h"`, spent: 96, settled: true},
		"who had it before ended it":             {waited: time.Second, redo: true, settled: true},
		"whether somebody did is not known":      {waited: time.Second, redo: true, no: "DIRECT.GET." + fetchworker.StreamResults, fails: true},
		"the month's end, and no word is stored": {waited: time.Second, spent: 101, no: "fetch.put.", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			stepping(t, func(t *testing.T, s *steps) {
				s.env["FMP_BANDWIDTH_LIMIT_GB"] = "1"
				s.upstream.Fallback = func(*http.Request) *providertest.Step {
					step := providertest.JSON(200, `[{"symbol":"AAPL","price":1}]`)
					return &step
				}
				s.room = memory.New(16 << 20)
				r := s.request(s.take("q", "AAPL", c.wanted))
				if c.wanted != "" {
					s.big(r.call.Key, 2*time.Hour)
				}
				if c.spent > 0 {
					s.spend(c.spent)
				}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				r.leads = bounded{Context: ctx, w: s.Worker, r: r}
				r.over = &r.leads
				defer r.over.cancel()
				if c.spent > 0 {
					if done, err := s.cached(ctx, r, nil); done || err != nil {
						t.Fatal(done, err)
					}
				}
				room, err := s.room.Reserve(ctx, 16<<20)
				if err != nil {
					t.Fatal(err)
				}
				after := room.Close
				if c.left {
					after = stop
				}
				freed := time.AfterFunc(100*time.Millisecond, after)
				defer func() {
					if freed.Stop() || c.left {
						room.Close()
					}
				}()
				permit, err := s.permit(r.over, r)
				if err != nil {
					t.Fatal(err)
				}
				if c.redo {
					r.again = true
					if _, _, err := s.answers.Put(ctx, *failedAnswer(r.Letter, fetchworker.CodeNotFound, ""), ""); err != nil {
						t.Fatal(err)
					}
				}
				bounded := ctx
				if c.no != "" {
					s.wire.Break(c.no, brokertest.RequestLost, 1<<20, 0)
					var end context.CancelFunc
					bounded, end = context.WithTimeout(ctx, time.Minute)
					defer end()
				}
				landed := 0
				again, err := s.use(bounded, r, permit, c.waited, func(*providers.Result) { landed++ })
				if again != c.again || (err != nil) != c.fails {
					t.Errorf("again %t, %v", again, err)
				}
				if n := len(s.upstream.Calls()); n != c.calls || landed != c.calls {
					t.Errorf("%d calls, %d landed", n, landed)
				}
				s.wire.Mend()
				if a := s.stored(r); (a != nil && a.Final) != (c.settled || c.redo) {
					t.Errorf("answered %+v", a)
				}
				if n := s.served["fmp"].Gate.State().InFlight; n != 0 {
					t.Errorf("%d permits are out", n)
				}
			})
		})
	}
}

// A suspect whose last run may still be going on is for another worker, a little
// later: neither at once, in a circle, nor only when its time is over. And what is
// handed back is, also where that cannot be written down.
func TestWhatIsHandedBackComesAgainInTime(t *testing.T) {
	for name, c := range map[string]struct {
		hand  func(s *steps, d *delivery)
		after time.Duration
	}{
		"it may run elsewhere": {func(s *steps, d *delivery) {
			s.against(s.t, d, `{"running":["`+s.name+`"]}`)
			s.handle(d.as(func(d *delivery) { d.count = suspectAfter + 1 }))
		}, againAfter},
		"by the way": {func(s *steps, d *delivery) { s.handBack(d, time.Second) }, time.Second},
		"at once":    {func(s *steps, d *delivery) { s.handBack(d, 0) }, 0},
		"it is not taken down": {func(s *steps, d *delivery) {
			s.wire.Break("suspect.", brokertest.RequestLost, 1<<20, 0)
			s.handBack(d.as(func(d *delivery) { d.count = 2 }), 0)
		}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			stepping(t, func(t *testing.T, s *steps) {
				d := s.take("q", "AAPL", "")
				s.held.Remove(d)
				began := time.Now()
				c.hand(s, d)
				select {
				case again := <-s.came:
					if took := time.Since(began); took < c.after || took > c.after+time.Second || again.count != 2 {
						t.Errorf("it comes after %v, for the %d. time", took, again.count)
					}
				case <-time.After(30 * time.Second): //nolint:forbidigo // of a bubble
					t.Error("it does not come again")
				}
			})
		})
	}
}
