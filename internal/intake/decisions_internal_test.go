package intake

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
)

// desk is a shard whose questions are counted.
type desk struct {
	*Shard
	sent, risen int
	err         error // that a question comes to
	shut        bool
	rests       bool // the shard may: it would be heard
}

func newDesk(rate float64, rests bool) *desk {
	d := &desk{Shard: Requests("fmp", "fmp-batch-0", fetchworker.LaneBatch, 0, func() float64 { return rate })}
	d.ask = func(n int) error {
		if d.err == nil {
			d.sent += n
		}
		return d.err
	}
	d.Shut = func() bool { return d.shut }
	d.rest, d.mayEnd = time.Minute, func() bool { return d.rests }
	if rests {
		d.Make = func(context.Context) (time.Time, bool, error) { return time.Time{}, false, nil }
	}
	d.rise = func() { d.risen++ }
	return d
}

// asks checks how many messages were asked for since the last look.
func (d *desk) sends(t *testing.T, when string, want int) {
	t.Helper()
	if d.sent != want {
		t.Errorf("%s: asked for %d, want %d", when, d.sent, want)
	}
	d.sent = 0
}

// What is asked for and what is held follow what the server says and what the
// worker does, to the message.
func TestWhatAShardAsksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(20, false)
		d.Start() // of a message from before: nothing is asked for until it is open
		d.waiting = 0
		d.sends(t, "before its beginning", 0)
		d.begin()
		d.sends(t, "the beginning", 2)
		d.came(1)
		d.came(2)
		d.sends(t, "both came and wait", 0)
		if d.Held() != 2 {
			t.Errorf("holds %d", d.Held())
		}
		d.Start()
		d.sends(t, "one has started", 1)
		d.Start()
		d.sends(t, "the other has", 1)
		d.End()
		if d.Held() != 1 {
			t.Errorf("one has ended, and it holds %d", d.Held())
		}
		d.End()
		if d.Held() != 0 {
			t.Errorf("both have ended, and it holds %d", d.Held())
		}
		d.over(1)
		d.sends(t, "the server ended a request with nothing more", 1)
		d.over(2)
		d.sends(t, "and both", 2)
		d.begin()
		d.sends(t, "a new connection", 2)
		d.close()
		d.over(2)
		d.sends(t, "closed", 0)
	})
}

// Nothing is asked for whose answer could not be stored, and all of it again
// once it could.
func TestAShardThatIsShutAsksForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(20, false)
		d.shut = true
		d.begin()
		d.look(time.Now())
		d.Stir()
		d.sends(t, "shut", 0)
		d.shut = false
		if next := d.look(time.Now()); next.IsZero() {
			t.Error("it is not looked at again")
		}
		d.sends(t, "open again", 2)
	})
}

// The look-ahead follows the pace of the starts, and never passes what the
// limits let start in a tenth of a second.
func TestHowFarAShardLooksAhead(t *testing.T) {
	for _, c := range []struct {
		rate         float64
		starts, want int
	}{
		{20, 0, 2}, {20, 1, 2}, {20, 50, 2}, {200, 1, 2}, {200, 10, 10}, {200, 50, 20}, {1e9, 50, 50}, {1e9, 1e6, lookAheadMost}, {0, 50, 2},
	} {
		if got := newDesk(c.rate, false).bound(c.starts); got != c.want {
			t.Errorf("%v a second, %d have started: %d ahead, want %d", c.rate, c.starts, got, c.want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(1000, false)
		d.begin()
		for range 40 {
			d.came(1)
			d.Start()
			d.End()
		}
		// What is asked for comes at once: what starts in a moment is enough.
		if want := int(40 * moment / paceOver); d.ahead != want {
			t.Errorf("%d ahead at forty starts in a tenth of a second, want %d", d.ahead, want)
		}
		time.Sleep(paceOver)
		d.came(1)
		d.Start()
		if want := int(40 * moment / paceOver); d.ahead != want {
			t.Errorf("%d ahead after a tenth of a second with forty, want %d", d.ahead, want)
		}
		time.Sleep(2 * paceOver)
		d.came(1)
		d.Start()
		if d.ahead != lookAhead {
			t.Errorf("%d ahead after a pause", d.ahead)
		}
	})
}

// A shard that fails is tried again after a pause that grows, is told as cut off
// after three failures in a row, and as well again once the server has spoken or
// the last of them is long ago.
func TestAShardThatFailsIsTriedAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(20, true)
		d.begin()
		d.Stir()
		d.Shard.risen(time.Now().Add(-time.Hour), false, nil)
		d.sends(t, "awake", 2)
		why := errors.New("no")
		for n, pause := range []int{100, 200, 400, 800, 1600, 2000, 2000} {
			looks := d.fails
			d.fail(why)
			d.fail(why) // of the same
			if d.fails != looks+1 {
				t.Fatalf("failure %d counts as %d", n+1, d.fails-looks)
			}
			if down := d.Down(); (down != nil) != (n >= 2) || down != nil && !errors.Is(down, why) {
				t.Errorf("after %d failures: %v", n+1, down)
			}
			time.Sleep(time.Duration(pause)*time.Millisecond - 1)
			risen := d.risen
			if next := d.look(time.Now()); d.risen != risen || time.Until(next) != 1 {
				t.Errorf("failure %d: tried again before its pause of %d ms, next look in %v", n+1, pause, time.Until(next))
			}
			time.Sleep(time.Nanosecond)
			d.look(time.Now())
			if d.risen != risen+1 {
				t.Errorf("failure %d: not tried again after %d ms", n+1, pause)
			}
			d.Shard.risen(time.Now().Add(-time.Hour), false, nil)
			d.sends(t, "tried again", 2)
		}
		time.Sleep(downFor - 2*time.Second)
		if d.Down() == nil {
			t.Error("well again, and nobody has said so")
		}
		time.Sleep(2*time.Second + 1)
		if err := d.Down(); err != nil {
			t.Errorf("long after: %v", err)
		}
		d.beats()
		d.fail(why)
		if d.pause != 2*shortestPause || d.Down() != nil {
			t.Errorf("after the server's word a failure counts as one of many: pause %v, %v", d.pause, d.Down())
		}
	})
}

// A server that says nothing for two beats has forgotten what was asked for.
func TestASilentServerIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(20, false)
		d.begin()
		d.sends(t, "the beginning", 2)
		for range 3 { // heartbeats
			time.Sleep(pullBeats)
			d.beats()
			d.look(time.Now())
		}
		d.sends(t, "while it beats", 0)
		time.Sleep(2 * pullBeats)
		d.look(time.Now())
		d.sends(t, "two beats may be late", 0)
		time.Sleep(time.Nanosecond)
		again := d.look(time.Now())
		d.sends(t, "silent, and a pause first", 0)
		time.Sleep(time.Until(again))
		d.look(time.Now())
		d.sends(t, "then again", 2)
		if !errors.Is(d.failure, errSilent) {
			t.Errorf("it failed of %v", d.failure)
		}
	})
}

// What the server must have ended, though its word was lost, is asked for again.
func TestAQuestionThatIsOverIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(20, false)
		d.begin()
		d.sends(t, "the beginning", 2)
		for time.Sleep(time.Nanosecond); d.sent == 0; time.Sleep(time.Second) {
			d.beats() // of another question
			d.look(time.Now())
			if d.Shard.asks[0].made.Add(pullLasts + time.Minute).Before(time.Now()) {
				t.Fatal("waited for a question that the server has ended")
			}
		}
		d.sends(t, "again", 2)
		if n := len(d.asks); n != 1 {
			t.Errorf("%d questions are open", n)
		}
	})
}

// A shard rests only if nothing is held, nothing is asked for and it would be
// heard; and wakes when it is stirred.
func TestWhenAShardRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(20, true)
		d.begin()
		d.Stir()
		if d.risen != 1 || d.state != rising {
			t.Fatalf("stirred: made %d times, state %d", d.risen, d.state)
		}
		d.Shard.risen(time.Now().Add(-time.Hour), false, nil)
		d.sends(t, "awake", 2)
		time.Sleep(time.Minute)
		d.beats()
		d.look(time.Now()) // nobody would hear: it asks anew
		d.rests = true
		if d.look(time.Now()); d.state != awake || d.asked == 0 {
			t.Error("rests while something is asked for")
		}
		d.came(1) // what was asked for: it may still come
		d.over(1)
		time.Sleep(2 * time.Minute)
		d.over(d.asked)
		if d.look(time.Now()); d.state != awake || d.asked == 0 {
			t.Error("rests while it holds something")
		}
		d.Start()
		d.End()
		d.over(d.asked)
		time.Sleep(2 * time.Minute)
		d.rests = false
		d.sent = 0
		if d.look(time.Now()); d.state != awake {
			t.Error("rests, and nobody would hear")
		}
		d.rests = true
		d.over(d.asked)
		if next := d.look(time.Now()); d.state != resting || !next.IsZero() {
			t.Errorf("does not rest: state %d, next look %v", d.state, next)
		}
		d.sent = 0
		d.look(time.Now())
		d.sends(t, "at rest", 0)
		d.Stir()
		if d.state != rising || d.risen != 2 {
			t.Errorf("stirred: state %d, made %d times", d.state, d.risen)
		}
	})
}

// What is left of a question counts until it has come or is over, the oldest
// first.
func TestQuestionsAreAnsweredInTheirOrder(t *testing.T) {
	d := newDesk(20, false)
	for _, n := range []int{3, 1, 4} {
		d.asks, d.asked = append(d.asks, ask{left: n}), d.asked+n
	}
	for _, c := range []struct{ came, left, questions int }{{2, 6, 3}, {1, 5, 2}, {3, 2, 1}, {9, 0, 0}, {1, 0, 0}} {
		d.answered(c.came)
		sum := 0
		for _, a := range d.asks {
			sum += a.left
		}
		if d.asked != c.left || sum != c.left || len(d.asks) != c.questions {
			t.Errorf("%d came: %d left, %d in %d questions; want %d in %d", c.came, d.asked, sum, len(d.asks), c.left, c.questions)
		}
	}
}

// The server's word about a question from before a reconnect ends none of the
// new ones, nor does anything that is no such word.
func TestAnOldWordEndsNothing(t *testing.T) {
	d := newDesk(20, false)
	in := &Intake{inbox: "_INBOX.x", Shards: []*Shard{d.Shard}, Complain: func(_ *Shard, err error) { t.Log(err) }}
	in.round.Store(2)
	d.begin()
	word := func(subject, status string) {
		in.take(&nats.Msg{Subject: subject, Header: nats.Header{"Status": {status}, "Nats-Pending-Messages": {"2"}}})
	}
	for _, subject := range []string{"_INBOX.x.0.1", "_INBOX.x.0.22", "_INBOX.x.0.", "_INBOX.x.0", "_INBOX.x.1.2", "_INBOX.x.-1.2", "_INBOX.x.no.2"} {
		for _, status := range []string{"408", "404", "409"} {
			if word(subject, status); d.asked != 2 || d.fails != 0 {
				t.Fatalf("%s of %s: %d asked for, %d failures", status, subject, d.asked, d.fails)
			}
		}
	}
	d.sent = 0
	word("_INBOX.x.0.2", "408")
	d.sends(t, "the word about its own question", 2)
	word("_INBOX.x.0.2", "409")
	if d.asked != 0 || d.fails != 1 {
		t.Errorf("refused: %d asked for, %d failures", d.asked, d.fails)
	}
}

// What is heard of stirs the shard that it is for, and no other, however much
// comes. From more than a few messages a second on the lane is to be listened to
// shard by shard.
func TestWhoIsStirred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []*desk
		l := &lane{subject: "fetch.queued.request.fmp.batch.>"}
		for range 4 {
			d := newDesk(20, true)
			d.begin()
			all = append(all, d)
			l.add(d.Shard)
		}
		stirred := func() (n int) {
			for i, d := range all {
				if d.risen > 0 {
					n |= 1 << i
				}
			}
			return n
		}
		for _, c := range []struct {
			subject string
			want    int
		}{
			{"fetch.queued.request.fmp.batch.4.quote.alice", 0},
			{"fetch.queued.request.fmp.batch.-1.quote.alice", 0},
			{"fetch.queued.request.fmp.batch.x.quote.alice", 0},
			{"fetch.queued.request.fmp.batch.2.quote.alice", 1 << 2},
			{"fetch.queued.request.fmp.batch.0.quote.alice", 1<<2 | 1},
		} {
			if much := l.hear(c.subject, time.Now()); stirred() != c.want || much {
				t.Errorf("%s: %b are awake, want %b; much: %t", c.subject, stirred(), c.want, much)
			}
		}
		const of = "fetch.queued.request.fmp.batch.0.quote.alice"
		time.Sleep(time.Second)
		for range busy {
			if l.hear(of, time.Now()) {
				t.Errorf("divided at %d messages a second", busy)
			}
			time.Sleep(time.Second / busy)
		}
		time.Sleep(time.Second)
		divided := 0
		for range busy + 5 {
			if l.hear(of, time.Now()) {
				divided++
			}
		}
		if divided != 1 || !l.divided || stirred() != 1<<2|1 {
			t.Errorf("divided %d times (%t) at more than %d messages a second, and %b are awake", divided, l.divided, busy, stirred())
		}
	})
}

// Who rests must be sure to be seen: by a look that began since it listens, and
// that is not long ago.
func TestWhoRestsIsSureToBeSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &lookout{}
		since := time.Now()
		if time.Sleep(time.Second); o.covers(since) {
			t.Error("nobody has looked")
		}
		before, now := since.Add(-1), time.Now()
		if o.looked.Store(&before); o.covers(since) {
			t.Error("the look was before it listened")
		}
		if o.looked.Store(&now); !o.covers(since) {
			t.Error("the look was just now")
		}
		if time.Sleep(lookLasts - 1); !o.covers(since) {
			t.Error("the look was lately")
		}
		if time.Sleep(time.Nanosecond); o.covers(since) {
			t.Error("nobody looks any more")
		}
	})
}

// Of a message that is, or may be, older than its consumer an earlier consumer
// may have delivered it: after the consumer was made, and where it counts anew.
func TestWhatMayHaveBeenDeliveredBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(20, true)
		d.begin()
		d.Stir()
		made := time.Now()
		d.Shard.risen(made, true, nil)
		time.Sleep(time.Minute)
		for _, c := range []struct {
			after time.Duration
			want  bool
		}{{-time.Hour, true}, {0, true}, {unsure - 1, true}, {unsure, false}, {time.Minute, false}} {
			if got := d.Older(made.Add(c.after)); got != c.want {
				t.Errorf("stored %v after its consumer was made: older %t", c.after, got)
			}
		}
		for n := uint64(1); n <= 3; n++ {
			if d.came(n); d.Older(time.Now()) {
				t.Errorf("delivery %d is of an earlier consumer's", n)
			}
		}
		if d.came(3); !d.Older(time.Now()) {
			t.Error("the consumer counts anew, and is thought to be the same")
		}
		if time.Sleep(2*unsure + 1); d.Older(time.Now()) {
			t.Error("what came long after is thought to be old")
		}
		never := newDesk(20, false)
		if never.Older(made.Add(-time.Hour)) {
			t.Error("a consumer that lasts has delivered nothing before")
		}
	})
}
