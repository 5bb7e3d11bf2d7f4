package ledger

import (
	"math/rand/v2"
	"testing"
	"time"
)

// full is a register under load, and the claimers' limits.
func full(l Limits, fill int) (*Register, []Shape, Instant) {
	shapes, r, now := NewShapes(l), New(1), start
	rng := rand.New(rand.NewPCG(1, 1))
	for range fill {
		r, _, _ = r.Claim(shapes, now, Order{Patience: patient, Class: Batch, Want: 1})
		now = now.Add(time.Duration(rng.Int64N(int64(2 * shapes[0].Gap))))
	}
	return r, shapes, now
}

// BenchmarkClaim is the pure core, where it grants and where it must look for
// the slot that is free again.
func BenchmarkClaim(b *testing.B) {
	for _, c := range []struct {
		name   string
		limits Limits
		fill   int
		class  Class
	}{
		{"granted", Limits{{120, time.Minute}}, 60, Light},
		{"granted/two windows", Limits{{60, time.Minute}, {2, time.Second}}, 30, Light},
		{"denied", Limits{{120, time.Minute}}, 600, Batch},
	} {
		b.Run(c.name, func(b *testing.B) {
			r, shapes, now := full(c.limits, c.fill)
			b.ReportAllocs()
			for b.Loop() {
				r.Claim(shapes, now, Order{Patience: patient, Class: c.class, Want: 1})
			}
		})
	}
}

func BenchmarkRegisterCodec(b *testing.B) {
	r, _, _ := full(Limits{{120, time.Minute}}, 600)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(r.Encode()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(r.Encode())), "bytes")
}
