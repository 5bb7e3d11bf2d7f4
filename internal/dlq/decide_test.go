package dlq

import (
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/wire"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	const maxLife = 72 * time.Hour
	end := in(maxLife - time.Hour) // requested an hour ago

	// A letter of an hour-old request that failed once, ten seconds ago.
	letter := func(class wire.Class, edit ...func(*Letter)) Letter {
		l := Letter{
			Generation: 1, Calls: 1, Failures: 1, Class: class,
			RequestedAt: in(-time.Hour), FailedAt: in(-10 * time.Second), NotBefore: in(-9 * time.Second),
		}
		for _, e := range edit {
			e(&l)
		}
		return l
	}
	notBefore := func(d time.Duration) func(*Letter) { return func(l *Letter) { l.NotBefore = in(d) } }
	deadline := func(d time.Duration) func(*Letter) { return func(l *Letter) { l.Deadline = in(d) } }
	failures := func(n int) func(*Letter) { return func(l *Letter) { l.Failures = n } }
	generation := func(n int) func(*Letter) { return func(l *Letter) { l.Generation = n } }
	throttled := func(times int) func(*Letter) {
		return func(l *Letter) {
			l.History = []Attempt{{Class: wire.ClassThrottled}, {Class: wire.ClassTransient}}
			for range times {
				l.History = append(l.History, Attempt{Class: wire.ClassThrottled})
			}
		}
	}
	requested := func(d time.Duration) func(*Letter) { return func(l *Letter) { l.RequestedAt = in(d) } }

	stands := func(status fetchworker.Status, final, review bool, generation int) answer.Standing {
		return answer.Standing{Stands: true, Answer: fetchworker.Answer{Status: status, Final: final, Review: review, Generation: generation}}
	}
	hold := func(reason fetchworker.Reason, until time.Duration) gate {
		return gate{held: reason, until: in(until)}
	}
	release := verdict{act: actRelease}
	review := verdict{act: actReview}
	expire := verdict{act: actExpire}
	done := verdict{act: actDone}
	refuse := verdict{act: actRefuse}
	cancel := verdict{act: actCancel}
	retired := gate{held: "no_worker", absent: in(-time.Second), retired: true}
	held := func(wake time.Time, reason fetchworker.Reason, retryAt time.Time) verdict {
		return verdict{act: actHold, wake: wake, watch: true, reason: reason, retryAt: retryAt}
	}
	wait := func(wake time.Time) verdict { return verdict{act: actHold, wake: wake} }

	for _, c := range []struct {
		name      string
		letter    Letter
		gate      gate
		stands    answer.Standing
		stored    time.Duration // relative to now; 0: ten seconds ago
		cancelled bool
		want      verdict
	}{
		// What its agent cancelled.
		{name: "cancelled", letter: letter("transient"), cancelled: true, want: cancel},
		{name: "cancelled, not due", letter: letter("quota", notBefore(time.Hour)), cancelled: true, want: cancel},
		{name: "cancelled behind a closed gate", letter: letter("paused"), gate: hold("paused", time.Hour), cancelled: true, want: cancel},
		{name: "cancelled, its deadline passed", letter: letter("transient", deadline(-time.Second)), cancelled: true, want: cancel},
		{name: "cancelled, its life ended", letter: letter("transient", requested(-maxLife)), cancelled: true, want: cancel},
		{name: "cancelled, retired", letter: letter("transient"), gate: retired, cancelled: true, want: cancel},
		{name: "cancelled, no retry left", letter: letter("transient", failures(4)), cancelled: true, want: review},
		{name: "cancelled, answered", letter: letter("transient"), stands: stands("ok", true, false, 1), cancelled: true, want: done},

		// Retries.
		{name: "an answer that is being computed", letter: letter("pending", notBefore(time.Minute)), want: verdict{act: actHold, wake: in(time.Minute), reason: "pending", retryAt: in(time.Minute)}},
		{name: "an answer that may be there", letter: letter("pending"), want: release},
		{name: "a retry that is due", letter: letter("transient"), want: release},
		{name: "a retry due right now", letter: letter("transient", notBefore(0)), want: release},
		{name: "a retry to come", letter: letter("transient", notBefore(time.Second)), want: wait(in(time.Second))},
		{name: "the last retry", letter: letter("transient", failures(3)), want: release},
		{name: "no retry left", letter: letter("transient", failures(4)), want: review},
		{name: "no retry left, not before later", letter: letter("transient", failures(4), notBefore(time.Hour)), want: review},
		{name: "no class at all", letter: letter(""), want: release},

		// Deadlines and lives.
		{name: "a deadline before the retry", letter: letter("transient", notBefore(time.Minute), deadline(time.Second)), want: wait(in(time.Second))},
		{name: "a deadline that passed", letter: letter("transient", deadline(-time.Second)), want: expire},
		{name: "a deadline right now", letter: letter("transient", deadline(0)), want: expire},
		{name: "a deadline while held", letter: letter("circuit_open", deadline(0)), gate: hold("circuit_open", time.Minute), want: expire},
		{name: "spent, then its deadline passed", letter: letter("transient", failures(4), deadline(-time.Second)), want: review},
		{name: "its life ended", letter: letter("transient", requested(-maxLife)), want: review},
		{name: "its life ended while held", letter: letter("paused", requested(-maxLife)), gate: hold("paused", time.Minute), want: review},
		{name: "deadline and life ended", letter: letter("transient", requested(-maxLife), deadline(-time.Second)), want: expire},
		{name: "its life ends before the retry", letter: letter("transient", requested(time.Second-maxLife), notBefore(time.Minute)), want: wait(in(time.Second))},
		{name: "of unknown age, as old as the letter", letter: letter("transient", func(l *Letter) { l.RequestedAt = time.Time{} }), stored: -maxLife, want: review},

		// What retrying cannot help.
		{name: "permanent", letter: letter("permanent", failures(0)), want: review},
		{name: "poison", letter: letter("poison", failures(0)), want: review},
		{name: "expired", letter: letter("expired", failures(0)), want: review},
		{name: "poison of a paused provider", letter: letter("poison"), gate: hold("paused", time.Minute), want: review},

		// Answers.
		{name: "answered ok", letter: letter("transient"), stands: stands("ok", true, false, 1), want: done},
		{name: "answered before this generation, for good", letter: letter("transient", generation(2)), stands: stands("ok", true, false, 1), want: done},
		{name: "answered in a later generation", letter: letter("permanent"), stands: stands("failed", true, true, 2), want: done},
		{name: "a later generation is at work", letter: letter("transient"), stands: stands("waiting", false, false, 2), want: done},
		{name: "its own failed answer, in review", letter: letter("permanent"), stands: stands("failed", true, true, 1), want: review},
		{name: "requeued from review", letter: letter("transient", generation(2)), stands: stands("failed", true, true, 1), want: release},
		{name: "a provisional answer", letter: letter("transient"), stands: stands("stale", false, false, 1), want: release},
		{name: "answered, deadline passed", letter: letter("transient", deadline(-time.Second)), stands: stands("stale", true, false, 1), want: done},

		// Closed gates.
		{name: "circuit open", letter: letter("circuit_open"), gate: hold("circuit_open", time.Minute), want: held(end, "circuit_open", in(time.Minute))},
		{name: "a due retry, circuit open", letter: letter("transient"), gate: hold("circuit_open", time.Minute), want: held(end, "circuit_open", in(time.Minute))},
		{name: "circuit open, its time passed", letter: letter("transient"), gate: hold("circuit_open", -time.Minute), want: held(end, "circuit_open", in(-time.Minute))},
		{name: "paused", letter: letter("paused"), gate: hold("paused", time.Hour), want: held(in(time.Hour), "paused", in(time.Hour))},
		{name: "paused, a deadline before", letter: letter("paused", deadline(time.Minute)), gate: hold("paused", time.Hour), want: held(in(time.Minute), "paused", in(time.Hour))},
		{name: "a long hold", letter: letter("throttled"), gate: hold("throttled", 10*time.Minute), want: held(in(10*time.Minute), "throttled", in(10*time.Minute))},
		{name: "a short hold is not told", letter: letter("throttled"), gate: hold("throttled", time.Minute), want: held(in(time.Minute), "", time.Time{})},
		{name: "no worker for long", letter: letter("transient"), gate: gate{held: "no_worker", absent: in(-time.Minute)}, want: held(end, "no_worker", time.Time{})},
		{name: "no worker for a moment is not told", letter: letter("transient"), gate: gate{held: "no_worker", absent: in(-time.Second)}, want: held(end, "", time.Time{})},

		// Providers that were given up.
		{name: "retired", letter: letter("circuit_open"), gate: retired, want: refuse},
		{name: "retired, a retry to come", letter: letter("transient", notBefore(time.Hour)), gate: retired, want: refuse},
		{name: "retired while paused", letter: letter("paused"), gate: gate{held: "paused", until: in(time.Hour), retired: true}, want: refuse},
		{name: "retired, no retry left", letter: letter("transient", failures(4)), gate: retired, want: review},
		{name: "retired, answered", letter: letter("transient"), gate: retired, stands: stands("ok", true, false, 1), want: done},

		// Opened gates.
		{name: "circuit closed", letter: letter("circuit_open", notBefore(time.Hour)), want: release},
		{name: "resumed", letter: letter("paused", notBefore(time.Hour)), want: release},
		{name: "hold lifted", letter: letter("throttled", notBefore(time.Hour)), want: release},
		{name: "a hold is over, refused once", letter: letter("throttled", throttled(1), notBefore(0)), want: release},
		{name: "a hold is over, refused twice", letter: letter("throttled", throttled(2), notBefore(0)), want: wait(in(time.Second))},
		{name: "and it was a second ago", letter: letter("throttled", throttled(2), notBefore(-time.Second)), want: release},
		{name: "a hold is over, refused each time", letter: letter("throttled", throttled(9), notBefore(-2*time.Second)), want: wait(in(3 * time.Second))},
		{name: "a hold lifted early, refused each time", letter: letter("throttled", throttled(9), notBefore(time.Hour)), gate: gate{lifted: in(-time.Second)}, want: wait(in(4 * time.Second))},
		{name: "lifted nobody knows when, refused each time", letter: letter("throttled", throttled(9), notBefore(time.Hour)), want: release},
		{name: "of another class, refused before", letter: letter("paused", throttled(9), notBefore(0)), want: release},
		{name: "parked this moment rests", letter: letter("circuit_open"), stored: -time.Millisecond, want: wait(in(time.Second - time.Millisecond))},
		{name: "quota to come", letter: letter("quota", notBefore(time.Hour)), want: held(in(time.Hour), "quota", in(time.Hour))},
		{name: "quota over", letter: letter("quota"), want: release},
		{name: "quota, limits changed since", letter: letter("quota", notBefore(time.Hour)), gate: gate{lifted: in(-time.Second)}, want: release},
		{name: "quota, limits changed before", letter: letter("quota", notBefore(time.Hour)), gate: gate{lifted: in(-time.Minute)}, want: held(in(time.Hour), "quota", in(time.Hour))},
		{name: "quota by the board, limits changed since", letter: letter("quota", notBefore(time.Hour)), gate: gate{held: "quota", until: in(time.Hour), lifted: in(-time.Second)}, want: release},
		{name: "quota by the board, limits changed before", letter: letter("quota"), gate: gate{held: "quota", until: in(time.Hour), lifted: in(-time.Minute)}, want: held(in(time.Hour), "quota", in(time.Hour))},
		{name: "quota by the board, its own later", letter: letter("quota", notBefore(2*time.Hour)), gate: hold("quota", time.Hour), want: held(in(time.Hour), "quota", in(2*time.Hour))},
		{name: "quota by the board, its own sooner", letter: letter("quota", notBefore(time.Minute)), gate: hold("quota", time.Hour), want: held(in(time.Hour), "quota", in(time.Hour))},
		{name: "quota by the board, limits never changed", letter: letter("quota"), gate: hold("quota", time.Hour), want: held(in(time.Hour), "quota", in(time.Hour))},
		{name: "a retry, quota by the board", letter: letter("transient"), gate: hold("quota", time.Hour), want: held(in(time.Hour), "quota", in(time.Hour))},
		{name: "unauthorized to come", letter: letter("unauthorized", notBefore(time.Minute)), want: held(in(time.Minute), "unauthorized", in(time.Minute))},
		{name: "unauthorized, then a success", letter: letter("unauthorized", notBefore(time.Minute)), gate: gate{succeeded: in(-time.Second)}, want: release},
		{name: "unauthorized, the success was before", letter: letter("unauthorized", notBefore(time.Minute)), gate: gate{succeeded: in(-time.Minute)}, want: held(in(time.Minute), "unauthorized", in(time.Minute))},
		{name: "unauthorized, resumed since", letter: letter("unauthorized", notBefore(time.Minute)), gate: gate{lifted: in(-time.Second)}, want: release},
	} {
		t.Run(c.name, func(t *testing.T) {
			stored := in(-10 * time.Second)
			if c.stored != 0 {
				stored = in(c.stored)
			}
			got := decide(c.letter, facts{now: now, stored: stored, stands: c.stands, gate: c.gate, cancelled: c.cancelled, retries: 3, maxLife: maxLife})
			if got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestFailureCode(t *testing.T) {
	for _, c := range []struct {
		letter Letter
		want   fetchworker.Code
	}{
		{Letter{Class: wire.ClassPermanent, Code: fetchworker.CodeRejected}, fetchworker.CodeRejected},
		{Letter{Class: wire.ClassPoison}, fetchworker.CodePoison},
		{Letter{Class: wire.ClassExpired}, fetchworker.CodeRetriesExhausted},
		{Letter{Class: wire.ClassTransient}, fetchworker.CodeRetriesExhausted},
	} {
		if got := c.letter.FailsWith(); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.letter.Class, c.letter.Code, got, c.want)
		}
	}
}

// What a letter's writer allowed counts, whatever its reader is configured to.
func TestWhatWasAllowedStandsInTheLetter(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name              string
		allowed, failures int
		life              time.Duration
		want              act
	}{
		{"a worker that allows one retry", 2, 2, 0, actReview},
		{"and its first", 2, 1, 0, actRelease},
		{"a worker that allows five", 6, 5, 0, actRelease},
		{"and its last", 6, 6, 0, actReview},
		{"nobody said", 0, 4, 0, actReview},
		{"nobody said, the third", 0, 3, 0, actRelease},
		{"a shorter life", 4, 1, time.Hour, actReview},
		{"a longer life", 4, 1, 200 * time.Hour, actRelease},
	} {
		l := Letter{Class: wire.ClassTransient, Failures: c.failures, Allowed: c.allowed, MaxLife: c.life, RequestedAt: now.Add(-100 * time.Hour), NotBefore: now}
		if c.life == 0 {
			l.RequestedAt = now.Add(-time.Hour)
		}
		l.Identity = fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
		l.Lane = fetchworker.LaneBatch
		m := l.DeadLetter()
		back, err := Decode(m.Subject, m.Header, m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if v := decide(back, facts{now: now, stored: l.RequestedAt, retries: 3, maxLife: 72 * time.Hour}); v.act != c.want {
			t.Errorf("%s: %v, want %v", c.name, v.act, c.want)
		}
	}
}

func TestAWaitIsAtMostTheLongest(t *testing.T) {
	for range 1000 {
		if w := Wait(time.Second, 3*time.Second, 5); w > 3*time.Second {
			t.Fatal(w)
		}
	}
}

// Those that fail together do not come back together: a wait is drawn from a
// fifth less to a fifth more.
func TestWaitsAreSpread(t *testing.T) {
	for failures, base := range map[int]time.Duration{1: time.Second, 3: 4 * time.Second} {
		least, most := time.Hour, time.Duration(0)
		for range 1000 {
			w := Wait(time.Second, time.Hour, failures)
			least, most = min(least, w), max(most, w)
		}
		if least < base*8/10 || least > base*9/10 || most < base*11/10 || most > base*12/10 {
			t.Errorf("after %d failures: from %v to %v", failures, least, most)
		}
	}
}

// A look at a gate is believed for a moment, and never beyond the end of what
// it saw.
func TestALookIsBelievedToItsEnd(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for ends, want := range map[time.Duration]time.Duration{
		-time.Second: gateLasts, 0: gateLasts, time.Millisecond: time.Millisecond,
		gateLasts: gateLasts, time.Hour: gateLasts,
	} {
		k := knownGate{gate: gate{held: "paused", until: now.Add(ends)}, looked: now}
		if got := k.lasts().Sub(now); got != want {
			t.Errorf("what ends after %v is believed for %v", ends, got)
		}
	}
}

// One release of a letter at a time, and another when that has ended.
func TestALetterIsClaimedOnce(t *testing.T) {
	d := newDrains()
	if !d.claim(7) || d.claim(7) || !d.claim(8) {
		t.Error("a letter was claimed twice, or another not at all")
	}
	d.unclaim(7)
	if !d.claim(7) || d.claim(8) {
		t.Error("what was given back was not claimed again, or what was not was")
	}
}

// A provider that is read to its end without a release sleeps until a letter of
// it waits, and not when one began to while it was read; a letter that is due and
// found no room ends its rest.
func TestADrainSleepsUntilSomethingWaits(t *testing.T) {
	for name, c := range map[string]struct {
		during, after func(*drains)
		looked, rests bool
	}{
		"nothing waits":                          {looked: false},
		"one began to wait while it was read":    {during: func(d *drains) { d.mark("fmp") }, looked: true, rests: true},
		"one began to wait afterwards":           {after: func(d *drains) { d.mark("fmp") }, looked: true, rests: true},
		"one found no room while it was read":    {during: func(d *drains) { d.rouse("fmp") }, looked: true},
		"one found no room afterwards":           {after: func(d *drains) { d.rouse("fmp") }, looked: true},
		"one of another's found no room":         {during: func(d *drains) { d.rouse("polygon") }, looked: false},
		"one waits, and another's found no room": {after: func(d *drains) { d.mark("fmp"); d.rouse("polygon") }, looked: true, rests: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDrains()
			d.mark("fmp")
			one := d.marked()["fmp"]
			d.begins(one)
			if c.during != nil {
				c.during(d)
			}
			one.rest = time.Now().Add(time.Hour)
			d.done("fmp")
			if c.after != nil {
				c.after(d)
			}
			again := d.marked()["fmp"]
			if looked := again != nil; looked != c.looked || looked && again.rest.IsZero() == c.rests {
				t.Errorf("it is looked at: %t, %+v", looked, again)
			}
		})
	}
}

// A review event is of one life of one request: no other's has its id, or it
// would be dropped as told already.
func TestAReviewEventIsOfOneLife(t *testing.T) {
	id := func(edit func(*Letter)) string {
		l := Letter{Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}, Generation: 1}
		edit(&l)
		e := reviewEvent(l, fetchworker.CodeRetriesExhausted)
		return e.Provider + " " + e.ID
	}
	first := id(func(*Letter) {})
	for name, edit := range map[string]func(*Letter){
		"another life": func(l *Letter) { l.Generation = 2 }, "another id": func(l *Letter) { l.ID = "q-2" }, "another's": func(l *Letter) { l.Agent = "bob" },
		"another operation": func(l *Letter) { l.Operation = "profile" }, "another provider": func(l *Letter) { l.Provider = "polygon" },
	} {
		if other := id(edit); other == first {
			t.Errorf("%s has the event %s too", name, other)
		}
	}
	if again := id(func(l *Letter) { l.Calls, l.Error = 7, "HTTP 500" }); again != first {
		t.Errorf("told again it is %s, and was %s", again, first)
	}
}
