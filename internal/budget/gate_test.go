package budget

import (
	"testing"
	"time"
)

func TestBurst(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		start := time.Now()
		for i := range 90 {
			at, err := b.call(t.Context(), g, Ask{}, Report{Outcome: Success, Remaining: -1})
			if err != nil {
				t.Fatal(i, err)
			}
			if d := at.Sub(start); d > 5*time.Second {
				t.Fatalf("call %d started after %v", i, d)
			}
		}
		t.Logf("90 after %v", time.Since(start))
	})
}
