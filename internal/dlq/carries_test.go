package dlq_test

import (
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"
)

// A letter carries the request that it is of, wherever it is on its way, and
// none that was asked at another moment.
func TestALetterCarriesItsRequestAndNoOther(t *testing.T) {
	for name, c := range map[string]struct {
		waits, released []time.Duration // asked so much later than the request
		carried         bool
	}{
		"nothing is stored":        {nil, nil, false},
		"it waits":                 {[]time.Duration{0}, nil, true},
		"it is released":           {nil, []time.Duration{0}, true},
		"it is both":               {[]time.Duration{0}, []time.Duration{0}, true},
		"another's waits":          {[]time.Duration{time.Nanosecond}, nil, false},
		"another's is released":    {nil, []time.Duration{-time.Hour}, false},
		"another's waits, it goes": {[]time.Duration{time.Second}, []time.Duration{0}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				l := dlqtest.Fresh(1, wire.ClassTransient)
				for _, later := range c.waits {
					other := l
					other.RequestedAt = l.RequestedAt.Add(later)
					f.Put(other)
				}
				for _, later := range c.released {
					other := l
					other.RequestedAt = l.RequestedAt.Add(later)
					if _, err := f.JS.PublishMsg(f.Ctx, other.Replayed()); err != nil {
						t.Fatal(err)
					}
				}
				carried, err := dlq.Carries(f.Ctx, record.New(f.JS, nil), l)
				if err != nil || carried != c.carried {
					t.Errorf("%v, %v", carried, err)
				}
			})
		})
	}
}

// What cannot be read at the moment is neither there nor gone: whoever asks is
// told so, whichever of the places it is that does not answer.
func TestWhatCannotBeReadIsNotGone(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		w := &brokertest.Wire{}
		js, end := f.Through(t, w)
		defer end()
		log := record.New(js, nil)
		l := dlqtest.Fresh(1, wire.ClassTransient)
		for name, c := range map[string]struct {
			ask    func() (bool, error)
			places []string
		}{
			"carried":    {func() (bool, error) { return dlq.Carries(f.Ctx, log, l) }, []string{wire.StreamDLQ, wire.StreamReplay}},
			"superseded": {func() (bool, error) { moved, err := dlq.Superseded(f.Ctx, log, l); return moved != dlq.Nowhere, err }, []string{wire.StreamDLQ, wire.StreamReplay, fetchworker.StreamResults}},
		} {
			if is, err := c.ask(); is || err != nil {
				t.Errorf("%s by nothing: %t, %v", name, is, err)
			}
			for _, place := range c.places {
				w.Break("DIRECT.GET."+place, brokertest.RequestLost, 1, 0)
				met := w.Met()
				if is, err := c.ask(); is || err == nil || w.Met() == met {
					t.Errorf("%s, and %s does not answer: %t, %v", name, place, is, err)
				}
				w.Mend()
			}
		}
	})
}

// A letter that is released while it is looked for is not missed.
func TestALetterThatMovesIsCarried(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		w := &brokertest.Wire{}
		js, end := f.Through(t, w)
		defer end()
		l := dlqtest.Fresh(1, wire.ClassTransient)
		f.Put(l)
		w.Break("DIRECT.GET", brokertest.ReplyLate, 1, time.Second)
		f.Running.Go(func() {
			time.Sleep(500 * time.Millisecond)
			if _, err := f.Log.Put(f.Ctx, l.ReplaySlot(), l.Replayed()); err != nil {
				t.Error(err)
			}
			seen, err := f.Log.Get(f.Ctx, l.DeadLetterSlot())
			if err != nil {
				t.Error(err)
			}
			if err := f.Log.Delete(f.Ctx, "", wire.StreamDLQ, seen.Sequence); err != nil {
				t.Error(err)
			}
		})
		began := time.Now()
		if carried, err := dlq.Carries(f.Ctx, record.New(js, nil), l); err != nil || !carried || time.Since(began) < time.Second {
			t.Errorf("%t after %v: %v", carried, time.Since(began), err)
		}
	})
}
