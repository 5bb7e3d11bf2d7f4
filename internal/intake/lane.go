package intake

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// lane is what a stream tells under one subject: of a provider's requests of one
// lane, or of its released letters. While some of its shards rest this worker
// listens to what was stored, and stirs the shard that it is for. A lane with
// much traffic wakes whole, and then nobody listens to it.
type lane struct {
	subject string
	shards  []*Shard // in their order

	sub   *nats.Subscription        // nil: nobody listens
	since atomic.Pointer[time.Time] // since when somebody does; nil: nobody

	second time.Time // that heard counts
	heard  int
}

// busy is how many messages of a second wake the whole lane: from there on an
// open pull costs less than to hear of each message.
const busy = 20

// subjectOf is where it is told that something came into a shard's lane.
func subjectOf(s *Shard) string {
	if s.Index < 0 {
		return wire.Queued("fetch.replay." + s.provider + ".>")
	}
	return wire.Queued("fetch.request." + s.provider + "." + string(s.Lane) + ".>")
}

// listen has what comes told on a channel.
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

// hear stirs what has come.
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
	shard, _, _ := strings.Cut(strings.TrimPrefix(subject, strings.TrimSuffix(l.subject, ">")), ".")
	index, err := strconv.Atoi(shard)
	if err != nil || index < 0 || index >= len(l.shards) {
		return
	}
	l.shards[index].Stir()
}
