package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsServer is a NATS server with JetStream, as anybody would start one.
func natsServer(ctx context.Context) error {
	o := &server.Options{
		ServerName: "bench", JetStream: true, StoreDir: os.Getenv("STORE"), JetStreamMaxStore: 1 << 40,
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		SyncAlways: os.Getenv("SYNC") == "always",
	}
	if routes := os.Getenv("ROUTES"); routes != "" {
		number, _ := strconv.Atoi(os.Getenv("SERVER"))
		own := strings.Split(routes, ",")[number]
		host, port, _ := net.SplitHostPort(own)
		o.ServerName = "bench-" + os.Getenv("SERVER")
		o.Cluster = server.ClusterOpts{Name: "bench", Host: host}
		o.Cluster.Port, _ = strconv.Atoi(port)
		o.Routes = server.RoutesFromStr("nats://" + strings.ReplaceAll(routes, ",", ",nats://"))
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("the server is not ready")
	}
	if err := ready(s.ClientURL()); err != nil {
		return err
	}
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// overNATS is a contender that takes requests from one stream and stores its
// answers in another.
type overNATS struct {
	nc             *nats.Conn
	js             jetstream.JetStream
	server, worker *process
	results        string             // stream of the answers
	subject        func(i int) string // to publish request i to
	live           string             // subject under which answers are seen live
	body           func(i int) []byte // of request i
	before         uint64             // answers that were there already
	refused        *atomic.Int64      // publishes
}

func (o *overNATS) processes() (worker, server *process) { return o.worker, o.server }

func (o *overNATS) publish(ctx context.Context, from, n int) error {
	return o.send(ctx, n, func(i int) *nats.Msg {
		return &nats.Msg{Subject: o.subject(from + i), Data: o.body(from + i)}
	})
}

// send publishes n messages, and returns when all of them are stored.
func (o *overNATS) send(ctx context.Context, n int, message func(i int) *nats.Msg) error {
	for i := range n {
		if _, err := o.js.PublishMsgAsync(message(i), jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
	}
	select {
	case <-o.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Minute):
		return errTimeout
	}
	if refused := o.refused.Load(); refused > 0 {
		return fmt.Errorf("%w: %d of %d", errRefused, refused, n)
	}
	return nil
}

var errRefused = errors.New("the server refused messages")

func (o *overNATS) answered(ctx context.Context) (int, error) {
	s, err := o.js.Stream(ctx, o.results)
	if err != nil {
		return 0, err
	}
	return int(s.CachedInfo().State.LastSeq), nil
}

// latencies publishes one request each and waits for its answer, seen live.
func (o *overNATS) latencies(ctx context.Context, from, n int, every time.Duration) ([]time.Duration, error) {
	sub, err := o.nc.SubscribeSync(o.live)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := o.nc.Flush(); err != nil {
		return nil, err
	}
	var all []time.Duration
	for i, began := from, time.Now(); i < from+n && time.Since(began) < probesLast; i++ {
		start := time.Now()
		if _, err := o.js.PublishAsync(o.subject(i), o.body(i)); err != nil {
			return nil, err
		}
		if _, err := sub.NextMsgWithContext(ctx); err != nil {
			return nil, fmt.Errorf("no answer to request %d: %w", i, err)
		}
		all = append(all, time.Since(start))
		pause(ctx, every)
	}
	return all, nil
}

func (o *overNATS) close() {
	if o.nc != nil {
		o.nc.Close()
	}
	o.worker.stop()
	o.server.stop()
}

// startNATS starts a server and connects to it.
func startNATS(s setup) (*overNATS, error) {
	p, err := startRole(s.dir, "nats", "STORE="+s.dir+"/jetstream", "SYNC="+s.sync)
	if err != nil {
		return nil, err
	}
	o := &overNATS{server: p, body: requestBody, refused: new(atomic.Int64)}
	if o.nc, err = nats.Connect(p.address); err != nil {
		return nil, err
	}
	o.js, err = jetstream.New(o.nc, jetstream.WithPublishAsyncMaxPending(512),
		jetstream.WithPublishAsyncErrHandler(func(jetstream.JetStream, *nats.Msg, error) { o.refused.Add(1) }))
	return o, err
}

// requestBody is what an agent asks for in request i: each another thing.
func requestBody(i int) []byte { return fmt.Appendf(nil, `{"id":"q-%d","params":{"n":"%d"}}`, i, i) }

func agentOf(i, agents int) string { return fmt.Sprintf("agent-%d", i%agents) }

// query is the call that a request asks for.
func query(body []byte) string {
	_, n, _ := strings.Cut(string(body), `"n":"`)
	return "/quote?n=" + strings.TrimRight(n, `"}`)
}
