package usage_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/usage"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) {
	brokertest.Main()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// deaf is a connection that hears nothing more once it has sent an increment:
// the server has it, and its acknowledgement is lost.
type deaf struct {
	net.Conn
	lose *atomic.Int32 // how many times more
	lost atomic.Bool
}

func (d *deaf) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("Nats-Incr")) && d.lose.Add(-1) >= 0 {
		d.lost.Store(true)
	}
	return d.Conn.Write(p)
}

func (d *deaf) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if d.lost.Load() {
		return 0, io.EOF
	}
	return n, err
}

type dialer struct{ lose *atomic.Int32 }

func (d dialer) Dial(network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).Dial(network, address) // as the client asks for it
	return &deaf{Conn: c, lose: d.lose}, err
}

func total(t *testing.T, b *brokertest.Broker, what string) int64 {
	t.Helper()
	stream, err := b.JS.Stream(t.Context(), wire.StreamUsage)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetLastMsgForSubject(t.Context(), wire.UsageSubject("fmp", "alice", time.Now(), what))
	if err != nil {
		return -1
	}
	n, err := store.Total(m.Data)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// An increment whose acknowledgement is lost is sent again, and counted once.
func TestALostAcknowledgementDoublesNothing(t *testing.T) {
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	defer b.Stop()
	var lose atomic.Int32
	lose.Store(1)
	nc, err := nats.Connect(b.Server.URL(), nats.SetCustomDialer(dialer{&lose}), nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := broker.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	book := usage.NewBook(js, zap.NewNop())
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { book.Run(ctx); close(done) }()
	book.Add("fmp", "alice", usage.Calls, 7, time.Now())
	for began := time.Now(); lose.Load() >= 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("the sum was sent %d times", 1-lose.Load())
		}
	}
	stop()
	<-done
	if n := total(t, b, usage.Calls); n != 7 {
		t.Errorf("%d calls are counted of 7", n)
	}
}

// Sums reach the counters within a second, a stop writes what is left, and
// while the stream is not there nothing is lost.
func TestSumsAreWrittenWithinASecondAndAtTheStop(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		book := usage.NewBook(b.JS, zap.NewNop())
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { book.Run(ctx); close(done) }()
		for range 1000 {
			book.Add("fmp", "alice", usage.Calls, 1, time.Now())
			book.Add("fmp", "al.ice", usage.Calls, 1, time.Now()) // no name
		}
		time.Sleep(time.Second)
		if n := total(t, b, usage.Calls); n != 1000 {
			t.Errorf("after a second %d are counted", n)
		}
		stream, err := b.JS.Stream(t.Context(), wire.StreamUsage)
		if err != nil {
			t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		if err := b.JS.DeleteStream(t.Context(), wire.StreamUsage); err != nil {
			t.Fatal(err)
		}
		book.Add("fmp", "alice", usage.Bytes, 5, time.Now())
		time.Sleep(3 * time.Second)
		if _, err := b.JS.CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if n := total(t, b, usage.Bytes); n != 5 {
			t.Errorf("%d bytes are counted after the stream came back", n)
		}
		book.Add("fmp", "alice", usage.OK, 3, time.Now())
		stop()
		<-done
		if n := total(t, b, usage.OK); n != 3 {
			t.Errorf("at the stop %d are counted", n)
		}
	})
}

// booked is a book in a bubble, whose words run through a wire.
func booked(t *testing.T, test func(t *testing.T, b *brokertest.Broker, cable *brokertest.Wire, book *usage.Book, stop func())) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		var cable brokertest.Wire
		js, end := b.Through(t, &cable)
		defer end()
		book := usage.NewBook(js, zap.NewNop())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { book.Run(ctx); close(done) }()
		stop := func() { cancel(); <-done }
		defer stop()
		test(t, b, &cable, book, stop)
	})
}

// away takes the counters' subjects away from their stream: nobody answers.
func away(t *testing.T, b *brokertest.Broker) (back func()) {
	t.Helper()
	stream, err := b.JS.Stream(t.Context(), wire.StreamUsage)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	elsewhere := config
	elsewhere.Subjects = []string{"elsewhere"}
	if _, err := b.JS.UpdateStream(t.Context(), elsewhere); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := b.JS.UpdateStream(t.Context(), config); err != nil {
			t.Error(err)
		}
	}
}

// What may have been stored goes on under its id, also where a later try was
// certainly not stored; and where nobody answers for longer than the stream
// knows an id, it is given up and not counted twice.
func TestASumInDoubtIsCountedOnce(t *testing.T) {
	booked(t, func(t *testing.T, b *brokertest.Broker, cable *brokertest.Wire, book *usage.Book, _ func()) {
		cable.Break("fetch.usage", brokertest.ReplyLost, 1, 0)
		book.Add("fmp", "alice", usage.Calls, 7, time.Now())
		for cable.Met() == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		back := away(t, b)
		time.Sleep(10 * time.Second)
		back()
		time.Sleep(10 * time.Second)
		if n := total(t, b, usage.Calls); n != 7 {
			t.Errorf("%d calls are counted of 7", n)
		}
		cable.Break("fetch.usage", brokertest.ReplyLost, 1000, 0)
		book.Add("fmp", "alice", usage.Bytes, 5, time.Now())
		time.Sleep(4 * time.Minute)
		cable.Mend()
		time.Sleep(10 * time.Second)
		if n := total(t, b, usage.Bytes); n != 5 {
			t.Errorf("%d bytes are counted of 5", n)
		}
	})
}

// A stop waits for counters that are away for a moment.
func TestAStopWaitsForTheCounters(t *testing.T) {
	booked(t, func(t *testing.T, b *brokertest.Broker, _ *brokertest.Wire, book *usage.Book, stop func()) {
		back := away(t, b)
		book.Add("fmp", "alice", usage.Calls, 7, time.Now())
		time.AfterFunc(2*time.Second, back)
		stop()
		if n := total(t, b, usage.Calls); n != 7 {
			t.Errorf("%d calls are counted of 7", n)
		}
	})
}

// Each day has its own counter.
func TestADayEndsAtMidnight(t *testing.T) {
	booked(t, func(t *testing.T, b *brokertest.Broker, _ *brokertest.Wire, book *usage.Book, stop func()) {
		today := time.Now()
		book.Add("fmp", "alice", usage.Calls, 2, today.Add(-24*time.Hour))
		book.Add("fmp", "alice", usage.Calls, 7, today)
		stop()
		if n := total(t, b, usage.Calls); n != 7 {
			t.Errorf("%d calls are counted of today's 7", n)
		}
	})
}
