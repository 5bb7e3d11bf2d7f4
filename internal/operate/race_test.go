package operate_test

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"
)

// decidedOnce checks that each of n items has ended in exactly one way: as a
// letter of its next life, or with the answer that ends it for good.
func (d *desk) decidedOnce(n int) (requeued, discarded int) {
	d.t.Helper()
	letters := map[string]bool{}
	for _, l := range d.walk(wire.StreamDLQ, browse.Filter{}) {
		letters[l.ID] = true
	}
	for i := range n {
		id := letter("q-" + strconv.Itoa(i)).Identity
		ended := d.stored(id).Problem.Code() == fetchworker.CodeDiscarded
		switch {
		case ended && letters[id.ID]:
			d.t.Errorf("%s is discarded and requeued", id)
		case ended:
			discarded++
		case letters[id.ID]:
			requeued++
		default:
			d.t.Errorf("%s is neither", id)
		}
	}
	if left := d.count(wire.StreamReview); left != 0 {
		d.t.Errorf("%d items are left", left)
	}
	return requeued, discarded
}

// Two people who decide on the same items at once, one to requeue and one to
// discard, decide each once.
func TestRequeueAndDiscardAtOnce(t *testing.T) {
	d := newDesk(t)
	const n = 200
	for i := range n {
		d.bury(letter("q-" + strconv.Itoa(i)))
	}
	items := d.walk(wire.StreamReview, browse.Filter{})
	var all sync.WaitGroup
	for _, item := range items {
		all.Go(func() {
			if _, err := d.operator(nil).Requeue(t.Context(), item, operate.RequeueOptions{}); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if _, err := d.operator(nil).Discard(t.Context(), item); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	requeued, discarded := d.decidedOnce(n)
	t.Logf("%d requeued, %d discarded", requeued, discarded)
}

// Any number of people, who are killed at any point and start again: each
// item is decided once, and the audit knows of it.
func TestAnyInterleavingDecidesOnce(t *testing.T) {
	d := newDesk(t)
	const n = 120
	for i := range n {
		d.bury(letter("q-" + strconv.Itoa(i)))
	}
	seen := d.walk(wire.StreamReview, browse.Filter{})
	decide := func(o *operate.Operator, item browse.Found, requeue bool) error {
		var err error
		if requeue {
			_, err = o.Requeue(t.Context(), item, operate.RequeueOptions{})
		} else {
			_, err = o.Discard(t.Context(), item)
		}
		return err
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			items := append([]browse.Found(nil), seen...)
			rand.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
			for _, item := range items {
				steps := rand.IntN(12)
				o := d.operator(func(string, bool) error {
					if steps--; steps == 0 {
						return errCrash
					}
					return nil
				})
				if err := decide(o, item, rand.IntN(2) == 0); err != nil && !errors.Is(err, errCrash) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	// Somebody comes back and does the rest.
	for _, item := range d.walk(wire.StreamReview, browse.Filter{}) {
		if err := decide(d.operator(nil), item, rand.IntN(2) == 0); err != nil {
			t.Error(err)
		}
	}
	d.decidedOnce(n)
	audited := map[string]bool{}
	for _, a := range d.acts() {
		audited[a.ID] = audited[a.ID] || a.Outcome == ""
	}
	for i := range n {
		if id := "q-" + strconv.Itoa(i); !audited[id] {
			t.Errorf("no audit of %s", id)
		}
	}
}

// later is another request under the id of one whose answer is gone.
func later(of dlq.Letter) dlq.Letter {
	next := of
	next.RequestedAt = of.RequestedAt.Add(30 * time.Minute)
	next.Body, next.Failures, next.Calls = []byte(`{"params":{"symbol":"MSFT"}}`), 1, 1
	return next
}

// An item waits for a person for ever, an id is a key only for as long as its
// answer is kept. Who uses it again is not answered for what another asked.
func TestAnIDThatIsUsedAgainIsAnotherRequest(t *testing.T) {
	for _, requeue := range []bool{true, false} {
		t.Run("its letter waits, requeue "+strconv.FormatBool(requeue), func(t *testing.T) {
			d := newDesk(t)
			old := letter("q-1")
			if _, err := d.JS.PublishMsg(t.Context(), old.ReviewItem()); err != nil { // its answer has gone with age
				t.Fatal(err)
			}
			d.put(later(old))
			item := d.only(wire.StreamReview)
			var fate operate.Fate
			var err error
			if requeue {
				fate, err = d.operator(nil).Requeue(t.Context(), item, operate.RequeueOptions{})
			} else {
				fate, err = d.operator(nil).Discard(t.Context(), item)
			}
			if fate != operate.FateSuperseded || err != nil {
				t.Errorf("%s, %v", fate, err)
			}
			if l := d.only(wire.StreamDLQ); string(l.Body) != string(later(old).Body) || l.Generation != 1 {
				t.Errorf("the living request became %s, generation %d", l.Body, l.Generation)
			}
			if n := d.count(fetchworker.StreamResults); n != 0 {
				t.Error("the living request was answered")
			}
			if acts := d.acts(); len(acts) != 1 || acts[0].Original != string(old.Body) {
				t.Errorf("the old bytes are nowhere: %+v", acts)
			}
		})
	}
	t.Run("it is on its way, and nobody sees it", func(t *testing.T) {
		d := newDesk(t)
		if _, err := d.JS.PublishMsg(t.Context(), letter("q-1").ReviewItem()); err != nil {
			t.Fatal(err)
		}
		if fate, err := d.operator(nil).Discard(t.Context(), d.only(wire.StreamReview)); fate != operate.FateDone || err != nil {
			t.Errorf("%s, %v", fate, err)
		}
		if n := d.count(fetchworker.StreamResults); n != 0 {
			t.Error("whoever has the id now was answered for good")
		}
	})
}

// Three people replay, cancel, requeue and discard at once, each from what they
// saw a while ago, and are killed at any point: no request is lost, none has an
// end and a life, and what has ended stays ended.
func TestAnyActsOfThreePeopleLeaveOneEnd(t *testing.T) {
	d := newDesk(t)
	const n = 24
	for i := range n {
		l := letter("q-" + strconv.Itoa(i))
		if i%2 == 0 {
			d.put(l)
		} else {
			d.bury(l)
		}
	}
	look := func() (seen []browse.Found) {
		for _, stream := range []string{wire.StreamDLQ, wire.StreamReview} {
			seen = append(seen, d.walk(stream, browse.Filter{})...)
		}
		return seen
	}
	act := func(o *operate.Operator, found browse.Found) error {
		now, second := time.Now().UTC(), rand.IntN(2) == 0
		var err error
		switch {
		case found.Stream == wire.StreamDLQ && second:
			_, err = o.Cancel(t.Context(), found, now)
		case found.Stream == wire.StreamDLQ:
			_, err = o.ReplayNow(t.Context(), found, now)
		case second:
			_, err = o.Discard(t.Context(), found)
		default:
			_, err = o.Requeue(t.Context(), found, operate.RequeueOptions{})
		}
		return err
	}
	answers := answer.New(d.log)
	standing := func(id string) answer.Standing {
		stands, err := answers.Read(t.Context(), letter(id).Identity)
		if err != nil {
			t.Fatal(err)
		}
		return stands
	}
	forGood := func(s answer.Standing) bool { return s.Stands && s.Final && !s.Review }
	first := look()
	ended := map[string]fetchworker.Code{}
	for range 2 {
		var people sync.WaitGroup
		for person := range 3 {
			seen := append([]browse.Found(nil), first...) // one acts on what it saw at the very beginning
			if person > 0 {
				seen = look()
			}
			people.Go(func() {
				rand.Shuffle(len(seen), func(i, j int) { seen[i], seen[j] = seen[j], seen[i] })
				for _, found := range seen {
					steps := rand.IntN(20)
					err := act(d.operator(func(string, bool) error {
						if steps--; steps == 0 {
							return errCrash
						}
						return nil
					}), found)
					if err != nil && !errors.Is(err, errCrash) {
						t.Error(err)
					}
				}
			})
		}
		people.Wait()
		for i := range n {
			id := "q-" + strconv.Itoa(i)
			s := standing(id)
			if code, before := ended[id]; before && (!forGood(s) || s.Problem.Code() != code) {
				t.Errorf("%s had ended as %s, and is %+v", id, code, s)
			} else if forGood(s) {
				ended[id] = s.Problem.Code()
			}
		}
	}
	// Somebody comes back and does the rest, as a worker would with a letter whose
	// answer it finds.
	for _, found := range look() {
		if found.Stream == wire.StreamReview || forGood(standing(found.ID)) {
			o := d.operator(nil)
			var err error
			if found.Stream == wire.StreamReview {
				_, err = o.Requeue(t.Context(), found, operate.RequeueOptions{})
			} else {
				_, err = o.Cancel(t.Context(), found, time.Now().UTC())
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	lives := map[string]int{}
	for _, found := range look() {
		lives[found.ID]++
		if found.Stream == wire.StreamReview {
			t.Errorf("an item of %s is left", found.ID)
		}
	}
	for i := range n {
		id := "q-" + strconv.Itoa(i)
		if s := standing(id); forGood(s) == (lives[id] > 0) || lives[id] > 1 {
			t.Errorf("%s has %d letters and the answer %+v", id, lives[id], s)
		}
	}
	t.Logf("%d of %d ended, %d go on", len(ended), n, len(lives))
}

// The note of an agent is written once for all that is cancelled at a moment,
// by any number at once; one that could not be written is tried by the next.
func TestTheNoteOfACancelIsWrittenOnce(t *testing.T) {
	d := newDesk(t)
	const n = 20
	for i := range n + 1 {
		d.put(letter("q-" + strconv.Itoa(i)))
	}
	letters, now := d.walk(wire.StreamDLQ, browse.Filter{}), time.Now().UTC()
	o := d.operator(nil)
	if err := d.JS.DeleteKeyValue(t.Context(), wire.BucketProviders); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Cancel(t.Context(), letters[n], now); err == nil {
		t.Fatal("a note was written where none can be")
	}
	for _, c := range broker.Streams(broker.Options{}) {
		if c.Name == "KV_"+wire.BucketProviders {
			if _, err := d.JS.CreateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
	}
	var all sync.WaitGroup
	for _, l := range letters {
		all.Go(func() {
			if _, err := o.Cancel(t.Context(), l, now); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	noted, err := d.KV.Get(t.Context(), "cancel.fmp.alice")
	if err != nil || noted.Revision() != 1 {
		t.Errorf("%+v, %v", noted, err)
	}
	if left := d.count(wire.StreamDLQ); left != 0 {
		t.Errorf("%d letters are left", left)
	}
}
