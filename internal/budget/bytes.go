package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// BytesStream is the counter stream of bytes on the wire.
const BytesStream = "FETCH_BUDGET"

// thresholds of the month's budget, in percent, and how bad each is.
var thresholds = [...]struct {
	percent  int
	severity string
}{{70, SeverityInfo}, {85, SeverityWarning}, {95, SeverityError}}

const (
	flushEach   = 100 * time.Millisecond
	refreshEach = time.Second
	// sureFor is how long the stream certainly knows a message id again. An
	// increment whose outcome is still unknown then is given up: bytes counted
	// must never exceed bytes seen.
	sureFor = 90 * time.Second
	// keepAnnounced outlives every month: a threshold is announced once.
	keepAnnounced = 40 * 24 * time.Hour
)

func bytesSubject(provider, month string) string {
	return "fetch.budget." + provider + ".bytes." + month
}

// month is the calendar month, UTC, whose counter a moment belongs to.
func month(t time.Time) string { return t.UTC().Format("2006-01") }

// nextMonth is when the next counter starts.
func nextMonth(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, time.UTC)
}

// passed is the thresholds that used is at or beyond.
func passed(used, limit int64) (n int) {
	for _, t := range thresholds {
		if limit > 0 && used*100 >= limit*int64(t.percent) {
			n++
		}
	}
	return n
}

// meter counts a provider's bytes: summed here, added to the fleet's counter
// about every 100 ms.
type meter struct {
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	s      Settings
	clock  *Clock
	events *announcer

	mu        sync.Mutex // guards all below
	month     string     // what total counts
	total     int64      // the fleet's, as last seen
	pending   int64      // counted here and not yet in total
	announced int        // thresholds of month that are known to have been announced
}

func newMeter(js jetstream.JetStream, kv jetstream.KeyValue, s Settings, c *Clock, a *announcer) *meter {
	return &meter{js: js, kv: kv, s: s, clock: c, events: a}
}

// AddBytes counts bytes that came over the wire. What a killed worker had not
// yet flushed, some 100 ms, is not counted.
func (g *Gate) AddBytes(n int64) {
	if n <= 0 {
		return
	}
	g.bytes.mu.Lock()
	defer g.bytes.mu.Unlock()
	g.bytes.pending += n
}

// Used is the fleet's bytes of this month, at most about a second old, and
// the month's limit (0: none).
func (g *Gate) Used() (used, limit int64) {
	m := g.bytes
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.month != month(g.clock.Now()) {
		return m.pending, m.s.Bytes
	}
	return m.total + m.pending, m.s.Bytes
}

// run flushes and refreshes until ctx ends, then flushes once more.
func (m *meter) run(ctx context.Context) {
	seen := time.Time{}
	for {
		m.mu.Lock()
		pending := m.pending
		m.mu.Unlock()
		switch {
		case pending > 0:
			if m.flush(ctx, pending) {
				seen = time.Now()
			}
		case time.Since(seen) >= refreshEach:
			if m.refresh(ctx) == nil {
				seen = time.Now()
			}
		}
		if wait(ctx, flushEach) != nil {
			break
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	m.mu.Lock()
	pending := m.pending
	m.mu.Unlock()
	if pending > 0 {
		m.flush(last, pending)
	}
}

// flush adds n to the counter. It is repeated under one message id until the
// outcome is known: the stream drops what it has already.
func (m *meter) flush(ctx context.Context, n int64) bool {
	id := m.s.Worker + "-" + strconv.FormatUint(rand.Uint64(), 36)
	mon := month(m.clock.Now())
	began := time.Now()
	var total int64
	for try := 0; ; try++ {
		var err error
		total, err = m.add(ctx, mon, n, id)
		if err == nil {
			break
		}
		if time.Since(began) > sureFor || wait(ctx, 100*time.Millisecond<<min(try, 4)) != nil {
			if !errors.Is(err, jetstream.ErrNoStreamResponse) { // nobody heard it: it stays pending
				m.mu.Lock()
				m.pending -= n
				m.mu.Unlock()
			}
			return false
		}
	}
	m.mu.Lock()
	m.pending -= n
	m.mu.Unlock()
	m.learn(ctx, mon, total)
	return true
}

func (m *meter) add(ctx context.Context, mon string, n int64, id string) (int64, error) {
	writing, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	msg := nats.NewMsg(bytesSubject(m.s.Provider, mon))
	msg.Header.Set("Nats-Incr", "+"+strconv.FormatInt(n, 10))
	ack, err := m.js.PublishMsg(writing, msg, jetstream.WithMsgID(id))
	if err != nil {
		return 0, fmt.Errorf("count bytes: %w", err)
	}
	if ack.Duplicate { // stored by an earlier try, which does not tell the total
		return m.read(writing, mon)
	}
	total, err := strconv.ParseInt(ack.Value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("count bytes: total %q: %w", ack.Value, err)
	}
	return total, nil
}

// read is the counter's value.
func (m *meter) read(ctx context.Context, mon string) (int64, error) {
	stream, err := m.js.Stream(ctx, BytesStream)
	if err != nil {
		return 0, fmt.Errorf("bytes of %s: %w", mon, err)
	}
	msg, err := stream.GetLastMsgForSubject(ctx, bytesSubject(m.s.Provider, mon))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("bytes of %s: %w", mon, err)
	}
	var counter struct {
		Value string `json:"val"`
	}
	if err := json.Unmarshal(msg.Data, &counter); err != nil {
		return 0, fmt.Errorf("bytes of %s: %w", mon, err)
	}
	return strconv.ParseInt(counter.Value, 10, 64)
}

func (m *meter) refresh(ctx context.Context) error {
	reading, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	mon := month(m.clock.Now())
	total, err := m.read(reading, mon)
	if err != nil {
		return err
	}
	m.learn(ctx, mon, total)
	return nil
}

// learn takes the fleet's total. Whoever sees it past a threshold creates the
// threshold's key, and the creator announces it: once for the fleet. A crash
// in between leaves the key without its event.
func (m *meter) learn(ctx context.Context, mon string, total int64) {
	m.mu.Lock()
	if m.month != mon {
		m.month, m.total, m.announced = mon, 0, 0
	}
	m.total = max(m.total, total)
	total, known := m.total, m.announced
	m.mu.Unlock()
	for i := known; i < passed(total, m.s.Bytes); i++ {
		t := thresholds[i]
		key := fmt.Sprintf("budget.%s.%s.%d", m.s.Provider, mon, t.percent)
		_, err := m.kv.Create(ctx, key, []byte(m.s.Worker), jetstream.KeyTTL(keepAnnounced))
		if err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			return // the next look tries again
		}
		m.events.tell(Event{
			Kind: KindBudget, Severity: t.severity, Mine: err == nil,
			Percent: t.percent, Used: total, Limit: m.s.Bytes, Month: mon, Until: nextMonth(m.clock.Now()),
		})
		m.mu.Lock()
		m.announced = i + 1
		m.mu.Unlock()
	}
}
