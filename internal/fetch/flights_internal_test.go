package fetch

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"fetchworker/internal/providers"
)

// TestTheModelOfFlights joins and lands at random beside a model: of those who
// ask for the same at a time one leads, all others hear what that one landed,
// and who comes after a landing begins anew.
func TestTheModelOfFlights(t *testing.T) {
	rng := rand.New(rand.NewPCG(24, 7))
	f := newFlights()
	type leader struct {
		flight    *flight
		followers []*flight
	}
	leads := map[string]*leader{}
	for n := range 10_000 {
		key := fmt.Sprint("k", rng.IntN(3))
		l := leads[key]
		if l != nil && rng.IntN(3) == 0 {
			var result *providers.Result
			if rng.IntN(2) == 0 {
				result = &providers.Result{HTTPStatus: n}
			}
			f.land(key, l.flight, result)
			delete(leads, key)
			for _, fl := range l.followers {
				select {
				case <-fl.done:
				default:
					t.Fatalf("%d: the call is over, and one still waits for it", n)
				}
				if fl.result != result {
					t.Fatalf("%d: heard %+v of %+v", n, fl.result, result)
				}
			}
			continue
		}
		fl, first := f.join(key, new(flight))
		switch {
		case first != (l == nil):
			t.Fatalf("%d: leads %t, and somebody was at it: %t", n, first, l != nil)
		case first:
			leads[key] = &leader{flight: fl}
		default:
			if fl.done == nil {
				t.Fatalf("%d: nothing to wait for", n)
			}
			select {
			case <-fl.done:
				t.Fatalf("%d: joined what is over", n)
			default:
			}
			l.followers = append(l.followers, fl)
		}
	}
	if len(f.flying) != len(leads) {
		t.Errorf("%d are kept, %d fly", len(f.flying), len(leads))
	}
}
