package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// origin is just before the first of the counters that run. Those at the
// origin itself are dry.
func (r *Register) origin() Instant {
	var origin Instant
	for _, t := range r.busy {
		if t > 0 && (origin == 0 || t <= origin) {
			origin = t - Instant(time.Millisecond)
		}
	}
	return origin
}

const codecVersion = 1

// Encode writes the register: varints, some 300 bytes a window.
func (r *Register) Encode() []byte {
	b := make([]byte, 0, 512)
	put := func(n int64) { b = binary.AppendVarint(b, n) }
	b = append(b, codecVersion)
	put(r.Epoch)
	put(int64(r.Hold))
	put(int64(r.Strikes))
	put(int64(len(r.trial.owner)))
	b = append(b, r.trial.owner...)
	put(int64(r.trial.until))
	put(int64(r.Spread / time.Millisecond))
	origin := r.origin() // the counters lie close together: write what they differ by
	put(int64(origin) / int64(time.Millisecond))
	for _, t := range r.busy {
		put(int64(max(t-origin, 0)) / int64(time.Millisecond))
	}
	put(int64(len(r.windows)))
	for _, w := range r.windows {
		put(int64(w.per))
		put(int64(w.n))
		put(int64(w.seen) / int64(time.Second))
		put(w.base)
		put(int64(w.tat))
		put(int64(len(w.counts)))
		for _, n := range w.counts {
			put(int64(n))
		}
	}
	return b
}

var errRegister = errors.New("not a permits register")

// Decode reads what encode wrote.
func Decode(b []byte) (*Register, error) {
	if len(b) == 0 || b[0] != codecVersion {
		return nil, fmt.Errorf("%w: unknown version", errRegister)
	}
	d := decoder{b: b[1:]}
	r := &Register{
		Epoch:   d.int(),
		Hold:    Instant(d.int()),
		Strikes: d.count(),
	}
	r.trial.owner = d.string()
	r.trial.until = Instant(d.int())
	r.Spread = time.Duration(d.count()) * time.Millisecond
	origin := Instant(d.int()) * Instant(time.Millisecond)
	for i := range r.busy {
		if after := d.count(); after > 0 {
			r.busy[i] = origin + Instant(after)*Instant(time.Millisecond)
		}
	}
	for range d.len() {
		w := window{
			per:  time.Duration(d.int()),
			n:    d.count(),
			seen: Instant(d.int()) * Instant(time.Second),
			base: d.int(),
			tat:  Instant(d.int()),
		}
		if w.per < time.Second || w.n < 1 {
			d.failed = true
		}
		w.counts = make([]int, d.len())
		for i := range w.counts {
			w.counts[i] = d.count()
		}
		r.windows = append(r.windows, w)
	}
	if d.failed || len(d.b) > 0 {
		return nil, fmt.Errorf("%w: cut short or garbled", errRegister)
	}
	return r, nil
}

// decoder reads varints and remembers that one could not be read.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.failed, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads what is never negative, and never large.
func (d *decoder) count() int {
	n := d.int()
	if n < 0 || n > 1<<40 {
		d.failed = true
		return 0
	}
	return int(n)
}

// len reads how many items follow; there cannot be more than bytes left.
func (d *decoder) len() int {
	n := d.count()
	if n > len(d.b) {
		d.failed = true
		return 0
	}
	return n
}

func (d *decoder) string() string {
	n := d.len()
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}
