package record_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// busyDialer turns some of the server's refusals of a compare-and-set into
// the one that a replicated stream gives while another is on its way, which
// has as many digits. What is stored stays as it was.
type busyDialer struct {
	left  atomic.Int32 // refusals still to be turned
	every int32        // one of so many
	met   atomic.Int32
	seen  atomic.Int32
}

func (d *busyDialer) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return &busyConn{Conn: c, d: d}, err
}

type busyConn struct {
	net.Conn
	d *busyDialer
}

func (c *busyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for from := 0; ; {
		at := bytes.Index(b[from:n], []byte(`"err_code":10071`))
		if at < 0 {
			return n, err
		}
		from += at + 1
		if c.d.met.Add(1)%c.d.every == 0 && c.d.left.Add(-1) >= 0 {
			copy(b[from-1:n], `"err_code":10164`)
			c.d.seen.Add(1)
		}
	}
}

func listening(t *testing.T) *brokertest.Broker {
	t.Helper()
	b := brokertest.StartIn(t, t.TempDir(), fmt.Sprintf("127.0.0.1:%d", brokertest.FreePort(t)))
	t.Cleanup(b.Stop)
	return b
}

func connectThrough(t *testing.T, b *brokertest.Broker, d *busyDialer) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(b.Server.URL(), nats.SetCustomDialer(d))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// A write that another one is in the way of is tried again, not given up.
func TestAWriteInProcessIsAConflict(t *testing.T) {
	b := listening(t)
	d := &busyDialer{every: 1}
	d.left.Store(3)
	log := record.New(connectThrough(t, b, d), nil)
	ctx := t.Context()
	if _, err := record.New(b.JS, nil).Put(ctx, slotOf(id), waiting(1, fetchworker.ReasonPaused, 0).Encode()); err != nil {
		t.Fatal(err)
	}
	out, err := log.Put(ctx, slotOf(id), ok(1).Encode())
	if err != nil || !out.Stored || d.seen.Load() == 0 {
		t.Fatalf("%+v %v, met %d", out, err, d.seen.Load())
	}
	d.left.Store(3)
	out, err = log.Put(ctx, slotOf(id), failed(1, false).Encode())
	if err != nil || out.Stored || out.Existing == nil {
		t.Errorf("over a final answer: %+v %v", out, err)
	}
	// A swap goes through once the other is done, and tells a message that is
	// another one by now.
	d.left.Store(3)
	if _, err := log.Swap(ctx, slotOf(id), 1, ok(2).Encode()); !errors.Is(err, record.ErrMoved) {
		t.Errorf("swap of a sequence that is gone: %v", err)
	}
	if _, err := log.Swap(ctx, slotOf(id), out.Sequence, ok(2).Encode()); err != nil {
		t.Errorf("swap: %v", err)
	}
}

// A swap that always meets another's write believes in the end that the message
// is another one by now.
func TestASwapThatIsAlwaysInAnothersWayEnds(t *testing.T) {
	b := listening(t)
	d := &busyDialer{every: 1}
	d.left.Store(1 << 20)
	if _, err := record.New(b.JS, nil).Put(t.Context(), slotOf(id), waiting(1, fetchworker.ReasonPaused, 0).Encode()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := record.New(connectThrough(t, b, d), nil).Swap(ctx, slotOf(id), 7, ok(2).Encode()); !errors.Is(err, record.ErrMoved) {
		t.Errorf("after %d times: %v", d.seen.Load(), err)
	}
}

// What no subject can be is not asked for, and of a header that a publisher made
// up as well the server's own word counts.
func TestWhatIsReadIsTheServersWord(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	if _, err := log.Put(t.Context(), slotOf(id), ok(1).Encode()); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"fetch.result.*.quote.alice.q", "fetch.result.>", "fetch.result..quote.alice.q", "fetch.result.fmp.quote.alice.a b", "fetch.result.fmp.quote.alice.none"} {
		if raw, err := log.Last(t.Context(), fetchworker.StreamResults, subject); !errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Errorf("%s: %s, %v", subject, raw.Subject, err)
		}
	}
	if own := record.Own(nats.Header{"Nats-Sequence": {"7", "9"}}, "Nats-Sequence"); own != "9" {
		t.Error(own)
	}
}

// Many writers of one subject, of whom every third is told that another is in
// the way: all get their turn, and the highest stands.
func TestWritersInEachOthersWay(t *testing.T) {
	b := listening(t)
	d := &busyDialer{every: 3}
	d.left.Store(1000)
	const writers = 8
	var group sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for w := range writers {
		log := record.New(connectThrough(t, b, d), nil)
		group.Go(func() {
			for n := range 10 {
				a := waiting(n*writers+w+1, fetchworker.ReasonPaused, 0)
				if _, err := log.Put(ctx, slotOf(id), a.Encode()); err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	group.Wait()
	got, err := record.New(b.JS, nil).Get(ctx, slotOf(id))
	if err != nil {
		t.Fatal(err)
	}
	if g := got.Header.Get(wire.HeaderGeneration); g != fmt.Sprint(10*writers) {
		t.Errorf("generation %s stands, want %d", g, 10*writers)
	}
	if d.seen.Load() == 0 {
		t.Error("nobody was in anybody's way")
	}
}

// A full stream is told at once, by its name.
func TestAFullStreamIsToldAtOnce(t *testing.T) {
	b := brokertest.Start(t)
	ctx := t.Context()
	stream, err := b.JS.Stream(ctx, fetchworker.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxBytes = 100
	if _, err := b.JS.UpdateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = record.New(b.JS, nil).Put(ctx, slotOf(id), ok(1).Encode())
	var full *record.NoRoomError
	if !errors.As(err, &full) || full.Stream != fetchworker.StreamResults || record.Refused(err) || time.Since(began) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}
