package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// watchBeats is how often the server says that a watch is alive while it tells
// nothing. The client's own watch of a bucket has five seconds, which are a
// third of what an idle fleet moves. Whoever waits for two that are missing is
// late: see Mirror.look and Beats for what is sooner.
const watchBeats = 15 * time.Second

// prefix is where the values of the bucket lie.
const prefix = "$KV." + Bucket + "."

// watch tells of the newest value of each key of the bucket, of all once they
// have been told, and of what changes from then on, one after the other, until
// stop: after it nothing is told. leave then tells the servers, which may say
// nothing to it for five seconds while they elect a leader.
func watch(ctx context.Context, conn *nats.Conn, keys []string, tell func(Entry), all func()) (stop, leave func(), err error) {
	js, err := conn.JetStream()
	if err != nil {
		return nil, nil, fmt.Errorf("watch %s: %w", Bucket, err)
	}
	filters := []string{prefix + ">"}
	if len(keys) > 0 {
		filters = filters[:0]
		for _, key := range keys {
			filters = append(filters, prefix+key)
		}
	}
	var mu sync.Mutex // held while somebody is told
	var pending, came uint64
	var whole, over bool
	take := func(m *nats.Msg) {
		meta, err := m.Metadata()
		if err != nil || len(m.Subject) <= len(prefix) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		tell(entry(m, meta))
		if came++; !whole && (came >= pending || meta.NumPending == 0) {
			whole = true
			all()
		}
	}
	mu.Lock() // the first messages may come before it is known how many there are
	defer mu.Unlock()
	sub, err := js.Subscribe("", take, nats.BindStream("KV_"+Bucket), nats.OrderedConsumer(), nats.DeliverLastPerSubject(),
		nats.ConsumerFilterSubjects(filters...), nats.IdleHeartbeat(watchBeats), nats.Context(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("watch %s: %w", Bucket, err)
	}
	if pending, err = sub.InitialConsumerPending(); err == nil && pending == 0 {
		whole = true
		all()
	}
	stop = func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
	}
	leave = func() { _ = sub.Unsubscribe() } // it fails only if the connection is gone, and the watch with it
	return stop, leave, nil
}

// entry is a message of the bucket as it was told.
func entry(m *nats.Msg, meta *nats.MsgMetadata) Entry {
	e := Entry{Key: m.Subject[len(prefix):], Rev: meta.Sequence.Stream, At: meta.Timestamp}
	if m.Header.Get("KV-Operation") == "" && m.Header.Get(jetstream.MarkerReasonHeader) == "" {
		e.Value = m.Data
	}
	return e
}
