package brokertest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker/internal/broker"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Fault is what happens to a request on a Wire.
type Fault int

// The faults.
const (
	RequestLost Fault = iota // the server never hears it
	ReplyLost                // the server does what it says, and nobody hears of it
	ReplyLate                // all that the server answers comes late
	Lost                     // the server never hears it, be it a request or not
	Refused                  // the server never hears it, and says, perhaps late, that it permits it not
	Twice                    // it is said twice
)

// Wire lies between a client and the server, and loses or delays what is said
// on it: what a write or a read came to, is then unknown to whoever made it.
// It works inside a bubble, too.
type Wire struct {
	mu     sync.Mutex
	faults []*broken
	said   []*broken          // of what the server says
	of     map[string]*broken // by reply subject
	met    int
	stands *standing // nil: it goes on
	cut    bool
	conns  []net.Conn
	ahead  time.Duration
	slow   broken // what the server says there comes late
}

type broken struct {
	part  string // of the subject
	fault Fault
	times int
	late  time.Duration
	after int // so many are let through before
}

// Break has the next requests, so many, fail whose subjects contain a part.
// late is for ReplyLate and Refused.
func (w *Wire) Break(part string, fault Fault, times int, late time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, &broken{part: part, fault: fault, times: times, late: late})
}

// BreakOne has one request fail whose subject contains a part, after so many that
// go well.
func (w *Wire) BreakOne(part string, fault Fault, after int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, &broken{part: part, fault: fault, times: 1, after: after})
}

// BreakSaid has the next messages that the server sends, so many, fail on subjects
// that contain a part: they are Lost, come late (ReplyLate) or Twice.
func (w *Wire) BreakSaid(part string, fault Fault, times int, late time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, &broken{part: part, fault: fault, times: times, late: late})
}

// Slow has all that the server says on subjects that contain a part come late;
// zero: no longer.
func (w *Wire) Slow(part string, late time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slow = broken{part: part, late: late}
}

// Ahead has the server's clock be ahead of the client's, where the client asks
// for it; by whole hours.
func (w *Wire) Ahead(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead = by
}

// later changes the time in what the server says of a stream.
func later(said []byte, by time.Duration) {
	_, at, _ := bytes.Cut(said, []byte(`"ts":"`))
	text, _, ok := bytes.Cut(at, []byte(`"`))
	if t, err := time.Parse(time.RFC3339Nano, string(text)); ok && err == nil {
		copy(text, t.Add(by).Format(time.RFC3339Nano)) // as long as it was
	}
}

// Mend lets everything through again.
func (w *Wire) Mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults, w.said = nil, nil
}

// Stop has the server take nothing in any more, and Go go on with it. held is
// closed when something is held up.
func (w *Wire) Stop() (held <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stands = &standing{held: make(chan struct{}), over: make(chan struct{})}
	return w.stands.held
}

// Go ends a Stop.
func (w *Wire) Go() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.stands.over)
	w.stands = nil
}

type standing struct {
	once       sync.Once
	held, over chan struct{}
}

// waits until the wire does not stand still.
func (w *Wire) waits() {
	w.mu.Lock()
	stands := w.stands
	w.mu.Unlock()
	if stands != nil {
		stands.once.Do(func() { close(stands.held) })
		<-stands.over
	}
}

// Cut breaks all connections that run through the wire, and lets none be made
// until Join.
func (w *Wire) Cut() {
	w.mu.Lock()
	conns := w.conns
	w.cut, w.conns = true, nil
	w.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// Join lets connections be made again.
func (w *Wire) Join() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
}

// add notes a connection, unless the wire is cut.
func (w *Wire) add(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.cut {
		w.conns = append(w.conns, c)
	}
	return !w.cut
}

var errCut = errors.New("the wire is cut")

// Met is how many requests have met a fault.
func (w *Wire) Met() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.met
}

// ConnectThrough opens a connection that runs through a wire, to the server of
// then: it may be started again.
func (b *Broker) ConnectThrough(t testing.TB, w *Wire) *nats.Conn {
	t.Helper()
	nc, err := b.Server.Connect(func(o *nats.Options) error {
		o.InProcessServer = &wired{w, b}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

// Through is JetStream as our programs open it, over a connection that runs
// through a wire, until end.
func (b *Broker) Through(t testing.TB, w *Wire) (js jetstream.JetStream, end func()) {
	t.Helper()
	nc := b.ConnectThrough(t, w)
	js, err := broker.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js, nc.Close
}

type wired struct {
	wire   *Wire
	broker *Broker
}

// InProcessConn implements nats.InProcessConnProvider.
func (w *wired) InProcessConn() (net.Conn, error) {
	server, err := w.broker.conn()
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	if !w.wire.add(theirs) {
		_, _ = server.Close(), ours.Close()
		return nil, errCut
	}
	go pump(theirs, server, func(f frame) fate {
		w.wire.waits()
		return w.wire.asked(f)
	})
	go pump(server, theirs, w.wire.answered)
	return ours, nil
}

var errStopped = errors.New("the server is stopped")

// conn is a connection to the server that runs.
func (b *Broker) conn() (net.Conn, error) {
	runs := b.runs.Load()
	if runs == nil {
		return nil, errStopped
	}
	var server nats.InProcessConnProvider
	_, _ = runs.Connect(func(o *nats.Options) error {
		server = o.InProcessServer
		return errStopped // it is only asked for
	})
	return server.InProcessConn()
}

// frame is one message of the protocol, or a line of another kind.
type frame struct {
	subject, reply string // empty: another kind
	bytes          []byte
}

// fate is what becomes of what was said.
type fate struct {
	times   int // it is heard
	late    time.Duration
	refusal []byte // what whoever said it is told, late
}

// asked says what becomes of what the client says.
func (w *Wire) asked(f frame) fate {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.faults {
		if b.times == 0 || !strings.Contains(f.subject, b.part) || f.reply == "" && b.fault != Lost {
			continue
		}
		if b.after > 0 {
			b.after--
			continue
		}
		b.times--
		w.met++
		if w.of == nil {
			w.of = map[string]*broken{}
		}
		if f.reply != "" {
			w.of[f.reply] = b
		}
		switch b.fault {
		case Refused:
			return fate{late: b.late, refusal: fmt.Appendf(nil, "-ERR 'Permissions Violation for Publish to %q'\r\n", f.subject)}
		case RequestLost, Lost:
			return fate{}
		case Twice:
			return fate{times: 2}
		case ReplyLost, ReplyLate:
		}
		return fate{times: 1}
	}
	delete(w.of, f.reply) // what is asked again is heard
	return fate{times: 1}
}

// answered says what becomes of what the server says.
func (w *Wire) answered(f frame) fate {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ahead != 0 {
		later(f.bytes, w.ahead)
	}
	for _, b := range w.said {
		if b.times == 0 || f.subject == "" || !strings.Contains(f.subject, b.part) {
			continue
		}
		b.times--
		w.met++
		switch b.fault { //nolint:exhaustive // what the server says is no request
		case Lost:
			return fate{}
		case Twice:
			return fate{times: 2, late: b.late}
		}
		return fate{times: 1, late: b.late}
	}
	b := w.of[f.subject]
	switch {
	case b == nil && w.slow.late > 0 && strings.Contains(f.subject, w.slow.part):
		return fate{times: 1, late: w.slow.late}
	case b == nil:
		return fate{times: 1}
	case b.fault == ReplyLost:
		return fate{}
	case b.fault == ReplyLate:
		return fate{times: 1, late: b.late}
	}
	return fate{times: 1}
}

// pump carries what one says to the other until either has left.
func pump(from, to net.Conn, judge func(frame) fate) {
	defer func() { _, _ = from.Close(), to.Close() }()
	var mu sync.Mutex
	var waiting [][]byte // what comes late, in its order
	say := func(b []byte) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := to.Write(b)
		return err
	}
	for in := bufio.NewReader(from); ; {
		f, err := read(in)
		if err != nil {
			return
		}
		is := judge(f)
		if is.refusal != nil {
			time.AfterFunc(is.late, func() { _, _ = from.Write(is.refusal) }) // whoever is gone hears nothing
		}
		for range is.times {
			if is.late == 0 {
				if say(f.bytes) != nil {
					return
				}
				continue
			}
			mu.Lock()
			waiting = append(waiting, f.bytes)
			mu.Unlock()
			time.AfterFunc(is.late, func() {
				mu.Lock()
				defer mu.Unlock()
				_, _ = to.Write(waiting[0]) // as above
				waiting = waiting[1:]
			})
		}
	}
}

func read(in *bufio.Reader) (f frame, err error) {
	if f.bytes, err = in.ReadBytes('\n'); err != nil {
		return f, err
	}
	words := strings.Fields(string(f.bytes))
	if len(words) < 3 {
		return f, nil
	}
	sizes := 1 // numbers at the end
	switch words[0] {
	case "PUB":
	case "HPUB":
		sizes = 2
	case "MSG", "HMSG":
		if sizes = 1; words[0] == "HMSG" {
			sizes = 2
		}
		words = append(words[:2], words[3:]...) // without the subscription
	default:
		return f, nil
	}
	f.subject = words[1]
	if len(words) == 3+sizes {
		f.reply = words[2]
	}
	size, err := strconv.Atoi(words[len(words)-1])
	if err != nil {
		return f, err
	}
	head := len(f.bytes)
	f.bytes = append(f.bytes, make([]byte, size+2)...) // a line's end after it
	_, err = io.ReadFull(in, f.bytes[head:])
	return f, err
}
