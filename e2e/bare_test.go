package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bareRole is the argument that makes the test binary a bare loop.
const bareRole = "bare-loop"

const (
	bareRequests = "BARE_REQUESTS"
	bareAnswers  = "BARE_ANSWERS"
)

// bareLoop is what the same server and machine give at the least: it pulls, calls,
// publishes with a PubAck, acknowledges. It never returns.
func bareLoop(args []string) {
	nc, err := nats.Connect(args[0])
	if err != nil {
		panic(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	c, err := js.CreateOrUpdateConsumer(ctx, bareRequests, jetstream.ConsumerConfig{Durable: "bare", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		panic(err)
	}
	client := &http.Client{Timeout: time.Minute}
	fmt.Println("bare loop")
	for {
		batch, err := c.Fetch(16, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			panic(err)
		}
		for m := range batch.Messages() {
			go func() {
				name := strings.TrimPrefix(m.Subject(), "bare.ask.")
				res, err := client.Get(args[1] + "/api/v3/quote/" + name)
				if err != nil {
					panic(err)
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err == nil {
					_, err = js.Publish(ctx, "bare.answer."+name, body, jetstream.WithExpectLastSequencePerSubject(0))
				}
				if err == nil {
					_ = m.Ack()
				}
			}()
		}
	}
}

// bare is a neighbour of the bare loop.
type bare struct {
	t     *testing.T
	nc    *nats.Conn
	js    jetstream.JetStream
	asked int
}

// startBare starts a bare loop on the fleet's server and provider.
func (f *fleet) startBare() *bare {
	t := f.t
	t.Helper()
	for _, c := range []jetstream.StreamConfig{
		{Name: bareRequests, Subjects: []string{"bare.ask.>"}, Retention: jetstream.WorkQueuePolicy},
		{Name: bareAnswers, Subjects: []string{"bare.answer.>"}, MaxMsgsPerSubject: 1},
	} {
		if _, err := f.js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	launch(t, "bare loop", self, nil, bareRole, f.env["NATS_URL"], f.upstream.URL()).says(t, "bare loop")
	nc, err := nats.Connect(f.env["NATS_URL"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &bare{t: t, nc: nc, js: js}
}

// ask is one request and its answer.
func (b *bare) ask(ctx context.Context) (time.Duration, error) {
	b.asked++
	name := fmt.Sprint("B", b.asked)
	sub, err := b.nc.SubscribeSync("bare.answer." + name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	began := time.Now()
	if _, err := b.js.Publish(ctx, "bare.ask."+name, nil); err != nil {
		return 0, err
	}
	_, err = sub.NextMsgWithContext(ctx)
	return time.Since(began), err
}

// during asks one after the other until the work is done, and returns how long
// each took.
func (b *bare) during(work func()) (took []time.Duration) {
	ctx, stop := context.WithCancel(b.t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			d, err := b.ask(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				b.t.Errorf("the bare loop: %v", err)
				return
			}
			took = append(took, d)
		}
	})
	work()
	stop()
	asking.Wait()
	return took
}
