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

	mu      sync.Mutex
	next    map[string][]*look // to be asked for with the next request
	asked   map[string][]*look // with the one under way; nil if there is none
	request uint64             // its number
	patient *time.Timer        // ends it

	unacked, unackedBytes int // writes since the last acknowledgement; of the one writer
}

// look waits for what stands under a key.
type look struct {
	done  chan struct{}
	value []byte // nil: nothing
	err   error
}

const (
	cacheStream = "KV_" + fetchworker.BucketCache
	// keysAtOnce bounds a request: values can be half a megabyte.
	keysAtOnce = 64
	// lookLasts is how long an answer is waited for: a cache must hold nobody up.
	lookLasts = 2 * time.Second
	// writesUnacked and bytesUnacked may be on their way to the server.
	writesUnacked = 64
	bytesUnacked  = 1 << 20
)

func newBucket(js jetstream.JetStream) (*bucket, error) {
	b := &bucket{js: js, inbox: js.Conn().NewInbox(), next: map[string][]*look{}}
	var err error
	if b.sub, err = js.Conn().Subscribe(b.inbox+".*", b.take); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return b, nil
}

func cacheSubject(key string) string { return "$KV." + fetchworker.BucketCache + "." + key }

// read is what stands under a key, nil if nothing does.
func (b *bucket) read(ctx context.Context, key string) ([]byte, error) {
	l := &look{done: make(chan struct{})}
	b.mu.Lock()
	b.next[key] = append(b.next[key], l)
	b.ask()
	b.mu.Unlock()
	select {
	case <-l.done:
		return l.value, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// ask sends the next request, if none is under way.
func (b *bucket) ask() {
	if b.asked != nil || len(b.next) == 0 {
		return
	}
	b.request++
	b.asked = b.next
	b.next = map[string][]*look{}
	subjects := make([]string, 0, len(b.asked))
	for key, looks := range b.asked {
		if len(subjects) == keysAtOnce {
			b.next[key] = looks
			delete(b.asked, key)
			continue
		}
		subjects = append(subjects, cacheSubject(key))
	}
	request, err := json.Marshal(struct {
		Last  []string `json:"multi_last"`
		Batch int      `json:"batch"`
	}{subjects, keysAtOnce})
	if err == nil {
		err = b.js.Conn().PublishRequest("$JS.API.DIRECT.GET."+cacheStream, b.inbox+"."+strconv.FormatUint(b.request, 10), request)
	}
	if err != nil {
		b.over(fmt.Errorf("look into the cache: %w", err))
		return
	}
	number := b.request
	b.patient = time.AfterFunc(lookLasts, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.request == number && b.asked != nil {
			b.over(errLook)
		}
	})
}

var errLook = errors.New("look into the cache: no answer")

// take takes one value in, or the server's word that there are no more.
func (b *bucket) take(m *nats.Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked == nil || m.Subject[len(b.inbox)+1:] != strconv.FormatUint(b.request, 10) {
		return
	}
	if record.IsStored(m.Header) {
		key := strings.TrimPrefix(record.Own(m.Header, jetstream.SubjectHeader), cacheSubject(""))
		for _, l := range b.asked[key] {
			l.value = m.Data
			close(l.done)
		}
		delete(b.asked, key)
		return
	}
	switch status := m.Header.Get("Status"); status {
	case "404":
		b.over(nil)
	case "204":
		if m.Header.Get("Nats-Num-Pending") == "0" {
			b.over(nil)
			return
		}
		// More bytes than the server sends at once: what is left is asked for
		// again, before others.
		for key, looks := range b.asked {
			b.next[key] = append(looks, b.next[key]...)
		}
		b.asked = map[string][]*look{}
		b.over(nil)
	default:
		b.over(fmt.Errorf("look into the cache: the server says %s %s", status, m.Header.Get("Description")))
	}
}

// over ends the request under way: who still waits has nothing to wait for.
func (b *bucket) over(err error) {
	if b.patient != nil {
		b.patient.Stop()
	}
	for _, looks := range b.asked {
		for _, l := range looks {
			l.err = err
			close(l.done)
		}
	}
	b.asked = nil
	if err == nil {
		b.ask()
		return
	}
	for _, looks := range b.next { // the same would become of them
		for _, l := range looks {
			l.err = err
			close(l.done)
		}
	}
	clear(b.next)
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
