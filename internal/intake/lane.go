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
// listens to what was stored, and stirs the shard that it is for: to the whole
// lane while little comes, and once much does only to the shards that rest, to
// each by itself. So nobody hears of a busy shard, and none is woken that nothing
// came for. (All were, once much came: an ack has the server ask every consumer
// of the stream whether it still needs the message, and with fifteen that gave no
// work that was a tenth of a server's CPU.)
type lane struct {
	subject string
	shards  []*Shard // in their order

	whole *nats.Subscription   // nil: nobody listens to the whole lane
	each  []*nats.Subscription // to a shard by itself
	since []atomic.Pointer[time.Time]

	second  time.Time // that heard counts
	heard   int
	divided bool // much has come since all of it rested
}

// busy is how many messages of a second divide a lane: from there on it costs
// more to hear of each than it does to listen to its shards one by one.
const busy = 20

func (l *lane) add(s *Shard) {
	l.shards = append(l.shards, s)
	l.each = append(l.each, nil)
	l.since = make([]atomic.Pointer[time.Time], len(l.shards))
}

// subjectOf is where it is told that something came into a shard's lane.
func subjectOf(s *Shard) string {
	if s.Index < 0 {
		return wire.Queued("fetch.replay." + s.provider + ".>")
	}
	return wire.Queued("fetch.request." + s.provider + "." + string(s.Lane) + ".>")
}

// partOf is where it is told of the lane's shard with this index alone, and
// laneOf the lane's subject by that or by its own.
func (l *lane) partOf(index int) string {
	return strings.TrimSuffix(l.subject, ">") + strconv.Itoa(index) + ".>"
}

func (in *Intake) laneOf(subject string) *lane {
	if l := in.lanes[subject]; l != nil {
		return l
	}
	whole := strings.TrimSuffix(subject, ".>")
	return in.lanes[whole[:strings.LastIndexByte(whole, '.')+1]+">"]
}

// open listens to a subject.
type open func(subject string) (*nats.Subscription, error)

// listen listens to the shards that rest or are about to, and to no other once
// much comes. What it listens to is exchanged without a gap.
func (l *lane) listen(to open, now time.Time) error {
	tires := make([]bool, len(l.shards))
	tired := 0
	for i, s := range l.shards {
		if tires[i] = s.tires(now); tires[i] {
			tired++
		}
	}
	if tired == len(l.shards) {
		l.divided = false
	}
	switch {
	case tired == 0:
		l.leave()
		return nil
	case !l.divided:
		if l.whole == nil {
			sub, err := to(l.subject)
			if err != nil {
				return fmt.Errorf("listen to %s: %w", l.subject, err)
			}
			l.whole = sub
		}
		for i := range l.shards {
			l.hears(i, now)
			l.end(&l.each[i])
		}
		return nil
	}
	for i := range l.shards {
		switch {
		case !tires[i]:
			l.ignore(i)
		case l.each[i] == nil:
			sub, err := to(l.partOf(i))
			if err != nil {
				return fmt.Errorf("listen to %s: %w", l.partOf(i), err)
			}
			l.each[i] = sub
			l.hears(i, now)
		}
	}
	l.end(&l.whole)
	return nil
}

// hears notes that nothing of a shard is missed from now on.
func (l *lane) hears(i int, now time.Time) {
	if l.since[i].Load() == nil {
		l.since[i].Store(&now)
	}
}

// ignore ends that a shard is listened to by itself.
func (l *lane) ignore(i int) {
	l.since[i].Store(nil)
	l.end(&l.each[i])
}

func (*lane) end(sub **nats.Subscription) {
	if *sub != nil {
		_ = (*sub).Unsubscribe() // it fails only without a connection, and then nothing is told either
		*sub = nil
	}
}

// leave ends it all.
func (l *lane) leave() {
	for i := range l.shards {
		l.ignore(i)
	}
	l.end(&l.whole)
}

// hear stirs what has come. much: the lane has become busy, and is to be listened
// to anew.
func (l *lane) hear(subject string, now time.Time) (much bool) {
	if now.Sub(l.second) >= time.Second {
		l.second, l.heard = now, 0
	}
	l.heard++
	if len(l.shards) == 1 {
		l.shards[0].Stir()
		return l.heard > busy
	}
	shard, _, _ := strings.Cut(strings.TrimPrefix(subject, strings.TrimSuffix(l.subject, ">")), ".")
	index, err := strconv.Atoi(shard)
	if err != nil || index < 0 || index >= len(l.shards) {
		return false
	}
	l.shards[index].Stir()
	if l.divided {
		l.ignore(index) // it is awake
		return false
	}
	l.divided = l.heard > busy
	return l.divided
}
