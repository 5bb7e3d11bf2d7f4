package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// Health says what /readyz answers; nil is ready.
type Health func(context.Context) error

// All is ready when each of them is.
func All(checks ...Health) Health {
	return func(ctx context.Context) error {
		for _, check := range checks {
			if err := check(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// Connected is ready while a connection besides the first one stands; carries
// says what goes over it.
func Connected(nc *nats.Conn, carries string) Health {
	return func(context.Context) error {
		if !nc.IsConnected() {
			return fmt.Errorf("not connected to NATS for %s: %s", carries, nc.Status())
		}
		return nil
	}
}

// verdictAge is how long a verdict is remembered: anybody may ask, as often as
// they like, and each look costs the server something.
const verdictAge = time.Second

// lookTime bounds a look.
const lookTime = 2 * time.Second

// Vitals are what a process tells of itself from its first moment: whether it
// is ready, or else why not, and whether NATS is there.
type Vitals struct {
	mu      sync.Mutex
	conn    *nats.Conn
	check   Health // nil while it starts
	waiting string // what a start waits for

	looking sync.Mutex // one look at a time, the others wait for its verdict
	at      time.Time
	verdict error
}

// NewVitals makes the vitals of a process that starts, as gauges as well.
func NewVitals(registry prometheus.Registerer) *Vitals {
	v := &Vitals{waiting: "its configuration"}
	gauge := func(name, help string, is func() bool) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if is() {
				return 1
			}
			return 0
		})
	}
	registry.MustRegister(
		gauge("fetch_ready", "1 if the process is ready, as /readyz says it.", func() bool { return v.Ready(context.Background()) == nil }),
		gauge("fetch_nats_connected", "1 if the process is connected to NATS.", func() bool { return v.connected() == nil }),
	)
	return v
}

// WaitsFor says what a start waits for.
func (v *Vitals) WaitsFor(what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waiting = what
}

// Joined says that there is a connection.
func (v *Vitals) Joined(nc *nats.Conn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conn, v.waiting = nc, "the streams"
}

// Serves says that the start is over; from now on check decides.
func (v *Vitals) Serves(check Health) {
	v.looking.Lock()
	defer v.looking.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.check, v.at = check, time.Time{}
}

func (v *Vitals) connected() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.conn == nil {
		return errors.New("starting: waiting for NATS")
	}
	if !v.conn.IsConnected() {
		return fmt.Errorf("not connected to NATS: %s", v.conn.Status())
	}
	return nil
}

// Ready is the verdict, at most a second old.
func (v *Vitals) Ready(ctx context.Context) error {
	v.looking.Lock()
	defer v.looking.Unlock()
	if time.Since(v.at) > verdictAge {
		v.verdict, v.at = v.look(ctx), time.Now()
	}
	return v.verdict
}

func (v *Vitals) look(ctx context.Context) error {
	v.mu.Lock()
	check, waiting := v.check, v.waiting
	v.mu.Unlock()
	if check == nil {
		return errors.New("starting: waiting for " + waiting)
	}
	if err := v.connected(); err != nil {
		return err
	}
	// The verdict is for all who ask, so none of them can end it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
	defer cancel()
	return check(ctx)
}
