package operate_test

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"fetchworker"
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
