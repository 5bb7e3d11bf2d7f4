package budget

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/store"
	"fetchworker/internal/wait"
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
	idleRefresh = 5 * time.Second // while nobody asks
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
	clock  *store.Clock
	events *announcer
	stream jetstream.Stream // nil until it is first read
	poke   chan struct{}    // there is something to flush

	mu        sync.Mutex // guards all below
	month     string     // what total counts
	total     int64      // the fleet's, as last seen
	pending   int64      // counted here and not yet in total
	asked     time.Time  // when somebody last wanted to know
	announced int        // thresholds of month that are known to have been announced
}

func newMeter(js jetstream.JetStream, kv jetstream.KeyValue, s Settings, c *store.Clock, a *announcer) *meter {
	return &meter{js: js, kv: kv, s: s, clock: c, events: a, poke: make(chan struct{}, 1)}
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
	wait.Signal(g.bytes.poke)
}

// Used is the fleet's bytes of this month and the month's limit (0: none). What
// others counted is in it after about a second, after some five if nobody
// here has asked for a while.
func (g *Gate) Used() (used, limit int64) {
	m := g.bytes
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = time.Now()
	if m.month != month(g.clock.Now()) {
		return m.pending, m.s.Bytes
	}
	return m.total + m.pending, m.s.Bytes
}

// run flushes and refreshes until ctx ends, then flushes once more.
func (m *meter) run(ctx context.Context) {
	// Reads and writes outlive ctx, by their own timeout: Close must not lose
	// bytes.
	refresh := time.NewTimer(0)
	defer refresh.Stop()
	for {
		select {
		case <-m.poke:
			if wait.For(ctx, flushEach) == nil {
				m.flush(ctx, m.unflushed())
			}
			if m.unflushed() > 0 {
				wait.Signal(m.poke)
			}
		case <-refresh.C:
			_ = m.refresh(context.WithoutCancel(ctx)) // the next one tells
		case <-ctx.Done():
			if n := m.unflushed(); n > 0 {
				m.flush(ctx, n)
			}
			return
		}
		refresh.Reset(m.pace())
	}
}

// pace is when to look at the fleet's total again: soon while somebody asks.
func (m *meter) pace() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.asked) < 5*idleRefresh {
		return refreshEach
	}
	return idleRefresh
}

func (m *meter) unflushed() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pending
}

// flush adds n to the counter. It is repeated under one message id until the
// outcome is known: the stream drops what it has already.
func (m *meter) flush(ctx context.Context, n int64) {
	id := m.s.Worker + "-" + rand.Text()
	mon := month(m.clock.Now())
	began := time.Now()
	for try := 0; ; try++ {
		total, err := m.add(context.WithoutCancel(ctx), mon, n, id)
		if err == nil {
			m.counted(n)
			m.learn(ctx, mon, total)
			return
		}
		if time.Since(began) > sureFor || wait.For(ctx, 100*time.Millisecond<<min(try, 4)) != nil {
			if !errors.Is(err, jetstream.ErrNoStreamResponse) {
				m.counted(n) // it may be in the counter: to add it again could count it twice
			}
			return
		}
	}
}

// counted takes off what is in the counter, or is given up.
func (m *meter) counted(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending -= n
}

func (m *meter) add(ctx context.Context, mon string, n int64, id string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, store.WriteTimeout)
	defer cancel()
	msg := nats.NewMsg(bytesSubject(m.s.Provider, mon))
	msg.Header.Set("Nats-Incr", "+"+strconv.FormatInt(n, 10))
	ack, err := m.js.PublishMsg(ctx, msg, jetstream.WithMsgID(id))
	if err != nil {
		return 0, fmt.Errorf("count bytes: %w", err)
	}
	if ack.Duplicate { // stored by an earlier try; its ack does not tell the total
		return m.read(ctx, mon)
	}
	total, err := strconv.ParseInt(ack.Value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("count bytes: total %q: %w", ack.Value, err)
	}
	return total, nil
}

// read is the counter's value.
func (m *meter) read(ctx context.Context, mon string) (int64, error) {
	if m.stream == nil { // only run reads
		stream, err := m.js.Stream(ctx, BytesStream)
		if err != nil {
			return 0, fmt.Errorf("bytes of %s: %w", mon, err)
		}
		m.stream = stream
	}
	msg, err := m.stream.GetLastMsgForSubject(ctx, bytesSubject(m.s.Provider, mon))
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
	reading, cancel := context.WithTimeout(ctx, store.WriteTimeout)
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
		_, err := m.kv.Create(context.WithoutCancel(ctx), key, []byte(m.s.Worker), jetstream.KeyTTL(keepAnnounced))
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
