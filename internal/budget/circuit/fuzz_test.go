package circuit

import (
	"errors"
	"testing"
	"time"
)

// FuzzDecode: a record that is understood can be written, is understood as the
// same, and bears every question and change.
func FuzzDecode(f *testing.F) {
	r := Record{}
	for _, key := range []string{"A", "B", "C"} {
		r = r.Failed(Call{Agent: key, Operation: "quote", Key: key}, Failure, start, policy)
	}
	r = r.Claimed("quote", Call{Agent: "a", Operation: "quote", Key: "A"}, "w", start.Add(time.Hour), start.Add(2*time.Hour))
	value, err := r.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	for _, seed := range []string{``, `{}`, `null`, `{"version":3}`, `{"state":"open","open_until":"2026-01-01T00:00:00Z"}`, `{"operations":[{"name":"","row":[{}]}]}`, `{"probes":[{}],"state":"half_open"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := Decode(value)
		if err != nil {
			if r.AnyHeld() {
				t.Fatalf("%s holds something, and cannot be read: %v", value, err)
			}
			return
		}
		again, err := r.Encode()
		if err != nil {
			return // times that JSON cannot say
		}
		same, err := Decode(again)
		if err != nil || !same.Equal(r) {
			t.Fatalf("%s became %s: %v", value, again, err)
		}
		c, now := Call{Agent: "a", Operation: "quote", Key: "k"}, start
		look := r.Look(c, now)
		if look.Held && look.Probe {
			t.Fatalf("%s: held and a probe", value)
		}
		for _, next := range []Record{r.Failed(c, Failure, now, policy), r.Succeeded(c, now), r.Spared(c, now, now, policy), r.Reconsidered(now, policy), r.Probed("quote", c, "w", Failure, 1, now, policy), r.Claimed("quote", c, "w", now, now.Add(time.Minute))} {
			if len(next.Operations) > max(len(r.Operations), mostOperations)+1 {
				t.Fatalf("%s grew to %d operations", value, len(next.Operations))
			}
			if value, err := next.Encode(); err == nil {
				if _, err := Decode(value); err != nil && !errors.Is(err, ErrNewer) {
					t.Fatal(err)
				}
			}
		}
	})
}
