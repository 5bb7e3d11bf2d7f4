package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bucket reads and writes the fleet's cache with few messages for many
// requests. All who look while a look is under way share the next one: at 64
// calls at once some thirty keys are asked for in one message, and the look
// costs a server an eighth. Writes wait for an acknowledgement only now and
// then. It is safe for concurrent use.
type bucket struct {
	js    jetstream.JetStream
	inbox string
	sub   *nats.Subscription

	mu    sync.Mutex
	next  *look // to be made
	asked *look // under way; nil if none is
	made  uint64

	unacked, unackedBytes int // writes since the last acknowledgement; of the one writer
}

// look is one request for many keys, and what is known of them when it is done.
type look struct {
	number  string // in its inbox
	keys    map[string]struct{}
	values  map[string][]byte
	partial bool // there is more than was sent
	err     error
	done    chan struct{}
	patient *time.Timer // ends it
}

func newLook() *look {
	return &look{keys: map[string]struct{}{}, values: map[string][]byte{}, done: make(chan struct{})}
}

const (
	cacheStream = "KV_" + fetchworker.BucketCache
	// keysAtOnce bounds a look. Whoever would be one more goes without.
	keysAtOnce = 256
	// bytesAtOnce is far less than a server lets wait for one connection.
	bytesAtOnce = 8 << 20
	// lookLasts is how long an answer is waited for: a cache must hold nobody up.
	lookLasts = 2 * time.Second
	// writesUnacked and bytesUnacked may be on their way to the server.
	writesUnacked = 64
	bytesUnacked  = 1 << 20
)

func newBucket(js jetstream.JetStream) (*bucket, error) {
	b := &bucket{js: js, inbox: js.Conn().NewInbox(), next: newLook()}
	var err error
	if b.sub, err = js.Conn().Subscribe(b.inbox+".*", b.take); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return b, nil
}

func cacheSubject(key string) string { return "$KV." + fetchworker.BucketCache + "." + key }

// read is what stands under a key, nil if nothing does.
func (b *bucket) read(ctx context.Context, key string) ([]byte, error) {
	for {
		b.mu.Lock()
		l := b.next
		if len(l.keys) == keysAtOnce {
			b.mu.Unlock()
			return nil, errLook // more than a cache can help with
		}
		l.keys[key] = struct{}{}
		b.ask()
		b.mu.Unlock()
		select {
		case <-l.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if value := l.values[key]; value != nil || !l.partial {
			return value, l.err
		}
	}
}

var errLook = errors.New("look into the cache: no answer")

// ask makes the next look, if none is under way.
func (b *bucket) ask() {
	if b.asked != nil || len(b.next.keys) == 0 {
		return
	}
	l := b.next
	b.asked, b.next = l, newLook()
	b.made++
	l.number = strconv.FormatUint(b.made, 10)
	subjects := make([]string, 0, len(l.keys))
	for key := range l.keys {
		subjects = append(subjects, cacheSubject(key))
	}
	request, err := json.Marshal(struct {
		Last     []string `json:"multi_last"`
		Batch    int      `json:"batch"`
		MaxBytes int      `json:"max_bytes"`
	}{subjects, keysAtOnce, bytesAtOnce})
	if err == nil {
		err = b.js.Conn().PublishRequest("$JS.API.DIRECT.GET."+cacheStream, b.inbox+"."+l.number, request)
	}
	if err != nil {
		b.end(l, err)
		return
	}
	l.patient = time.AfterFunc(lookLasts, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.end(l, errLook)
	})
}

// take takes one value in, or the server's word that there are no more.
func (b *bucket) take(m *nats.Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.asked
	if l == nil || m.Subject[len(b.inbox)+1:] != l.number {
		return
	}
	if record.IsStored(m.Header) {
		l.values[strings.TrimPrefix(record.Own(m.Header, jetstream.SubjectHeader), cacheSubject(""))] = m.Data
		return
	}
	switch status := m.Header.Get("Status"); status {
	case "204": // that was all, or more than goes at once
		l.partial = m.Header.Get("Nats-Num-Pending") != "0" && len(l.values) > 0
		b.end(l, nil)
	case "404": // there is nothing
		b.end(l, nil)
	default:
		b.end(l, fmt.Errorf("look into the cache: the server says %s %s", status, m.Header.Get("Description")))
	}
}

// end ends the look under way and makes the next.
func (b *bucket) end(l *look, err error) {
	if b.asked != l {
		return
	}
	if l.patient != nil {
		l.patient.Stop()
	}
	l.err = err
	close(l.done)
	b.asked = nil
	b.ask()
}

// write stores a value. Only every so many writes wait for their
// acknowledgement, which says that all before them have been worked off, so
// that the server is never sent more than it takes.
func (b *bucket) write(ctx context.Context, key string, value []byte) error {
	m := &nats.Msg{Subject: cacheSubject(key), Data: value}
	b.unacked++
	b.unackedBytes += len(value)
	if b.unacked < writesUnacked && b.unackedBytes < bytesUnacked {
		return b.js.Conn().PublishMsg(m)
	}
	b.unacked, b.unackedBytes = 0, 0
	_, err := b.js.PublishMsg(ctx, m)
	return err
}

func (b *bucket) close() { _ = b.sub.Unsubscribe() }
