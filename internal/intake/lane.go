package intake

import (
	"fmt"
	"hash/fnv"
	"strings"
	"sync/atomic"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
)

// lane is what is published under one subject: a provider's requests of one
// lane, or its released letters. While some of its shards rest this worker
// listens to what is published, and stirs the shard that it is for. A lane with
// much traffic wakes whole, and then nobody listens to it.
type lane struct {
	subject string
	shards  []*Shard

	sub   *nats.Subscription        // nil: nobody listens
	since atomic.Pointer[time.Time] // since when somebody does; nil: nobody

	second time.Time // that heard counts
	heard  int
}

// busy is how many messages of a second wake the whole lane: from there on an
// open pull costs less than to hear of each message.
const busy = 20

// subjectOf is where what comes into a shard is published.
func subjectOf(s *Shard) string {
	if s.Index < 0 {
		return "fetch.replay." + s.provider + ".>"
	}
	return "fetch.request." + s.provider + "." + string(s.Lane) + ".*.*"
}

// shardOf is the shard of an agent, as the request stream's subject transform
// spreads them.
func shardOf(agent string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(agent))
	return int(h.Sum32() % fetchworker.Shards)
}

// listen has published messages told on a channel.
func (l *lane) listen(nc *nats.Conn, told chan *nats.Msg) error {
	if l.sub != nil {
		return nil
	}
	sub, err := nc.ChanSubscribe(l.subject, told)
	if err != nil {
		return fmt.Errorf("listen to %s: %w", l.subject, err)
	}
	l.sub = sub
	now := time.Now()
	l.since.Store(&now)
	return nil
}

// leave ends it.
func (l *lane) leave() {
	if l.sub != nil {
		_ = l.sub.Unsubscribe() // it fails only without a connection, and then nothing is told either
		l.sub = nil
		l.since.Store(nil)
	}
}

// tires reports whether some of its shards rest, or would.
func (l *lane) tires(now time.Time) bool {
	for _, s := range l.shards {
		if s.tires(now) {
			return true
		}
	}
	return false
}

// hear stirs what a published message is for.
func (l *lane) hear(subject string, now time.Time) {
	if now.Sub(l.second) >= time.Second {
		l.second, l.heard = now, 0
	}
	l.heard++
	if len(l.shards) == 1 || l.heard > busy {
		for _, s := range l.shards {
			s.Stir()
		}
		return
	}
	index := shardOf(subject[strings.LastIndexByte(subject, '.')+1:])
	for _, s := range l.shards {
		if s.Index == index {
			s.Stir()
		}
	}
}
