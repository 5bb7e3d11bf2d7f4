package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
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

// The versions of the codec. A register is written in the first that can say
// what is in it, so that workers of before read it as long as they can.
const (
	codecFirst  = 1
	codecLost   = 2  // what was lost, what others called, and windows that were stretched
	codecGroups = 3  // windows of groups of operations
	codecNewest = 4  // providers that share it, and calls at once
	codecMoved  = 31 // no register: it says which quota's counts the permits instead
	codecBeyond = 32 // what begins with this or more is no register of any version, but text
)

// needs is the first version that can say what is in the register.
func (r *Register) needs() byte {
	if len(r.members)+len(r.seats)+r.atOnce > 0 {
		return codecNewest
	}
	if slices.ContainsFunc(r.windows, func(w window) bool { return w.group != "" }) {
		return codecGroups
	}
	if r.lost > 0 || r.foreign != (Foreign{}) || slices.ContainsFunc(r.windows, func(w window) bool { return w.grace > 0 }) {
		return codecLost
	}
	return codecFirst
}

// Encode writes the register: varints, some 300 bytes a window.
func (r *Register) Encode() []byte {
	b := make([]byte, 0, 512)
	put := func(n int64) { b = binary.AppendVarint(b, n) }
	version := r.needs()
	b = append(b, version)
	put(r.Epoch)
	put(int64(r.Hold))
	put(int64(r.Strikes))
	text := func(s string) {
		put(int64(len(s)))
		b = append(b, s...)
	}
	text(r.trial.owner)
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
		if version >= codecLost {
			put(int64(w.grace / time.Millisecond))
			put(int64(w.graceAt) / int64(time.Second))
		}
		if version >= codecGroups {
			text(w.group)
		}
	}
	if version >= codecLost {
		put(int64(r.lost))
		put(int64(r.foreign.N))
		put(int64(r.foreign.Until) / int64(time.Second))
	}
	if version >= codecNewest {
		put(int64(len(r.members)))
		for _, m := range r.members {
			text(m.Provider)
			put(m.Epoch)
		}
		put(int64(r.atOnce))
		put(int64(r.atOnceSeen) / int64(time.Second))
		put(int64(len(r.seats)))
		for _, s := range r.seats {
			text(s.owner)
			put(int64(s.n))
			put(int64(s.want))
			put(int64(s.since) / int64(time.Millisecond))
			put(int64(s.until) / int64(time.Millisecond))
		}
	}
	return b
}

var errRegister = errors.New("not a permits register")

// ErrNewer says that a register was written by a newer fetchworker, in a way
// that this one cannot read. It must not be replaced: those who can read it
// count on it.
var ErrNewer = errors.New("the permits register was written by a newer version")

// Decode reads what Encode wrote.
func Decode(b []byte) (*Register, error) {
	if len(b) > 0 && b[0] == codecMoved {
		return nil, moved(b)
	}
	if len(b) > 0 && b[0] > codecNewest && b[0] < codecBeyond {
		return nil, fmt.Errorf("%w: %d, this one reads up to %d", ErrNewer, b[0], codecNewest)
	}
	if len(b) == 0 || b[0] < codecFirst || b[0] >= codecBeyond {
		return nil, fmt.Errorf("%w: unknown version", errRegister)
	}
	version := b[0]
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
		if version >= codecLost {
			w.grace = time.Duration(d.count()) * time.Millisecond
			w.graceAt = Instant(d.int()) * Instant(time.Second)
			d.failed = d.failed || w.grace > w.per
		}
		if version >= codecGroups {
			w.group = d.string()
		}
		r.windows = append(r.windows, w)
	}
	if version >= codecLost {
		r.lost = Instant(d.int())
		r.foreign.N = d.count()
		r.foreign.Until = Instant(d.int()) * Instant(time.Second)
	}
	if version >= codecNewest {
		d.shared(r)
	}
	if d.failed || len(d.b) > 0 {
		return nil, fmt.Errorf("%w: cut short or garbled", errRegister)
	}
	return r, nil
}

// shared reads who shares the register, and who has which calls at once.
func (d *decoder) shared(r *Register) {
	for range d.len() {
		r.members = append(r.members, Member{d.string(), d.int()})
	}
	r.atOnce = d.count()
	r.atOnceSeen = Instant(d.int()) * Instant(time.Second)
	for range d.len() {
		r.seats = append(r.seats, seat{
			owner: d.string(), n: d.count(), want: d.count(),
			since: Instant(d.int()) * Instant(time.Millisecond), until: Instant(d.int()) * Instant(time.Millisecond),
		})
	}
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
