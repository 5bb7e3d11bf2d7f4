package record

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// diskFaults are how the server words that a file of a stream could not be
// written, after which it writes nothing to that stream any more until it is
// restarted. Other words, of another version of it, are no fault.
var diskFaults = []string{"no space left on device", "disk quota exceeded", "read-only file system", "input/output error", "file too large"}

const (
	stuckWait   = 2 * time.Second
	stuckUnseen = time.Minute // until somebody who was told nothing asks again
)

// unseen remembers the streams of which this connection may not ask.
type unseen struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// Stuck says why the server writes nothing to a stream any more, empty if it
// does, or if that cannot be known. The disk is not touched: it is asked to
// delete a message that there cannot be, and says what the last write to the
// stream's file has ended with, whoever's that was, before it looks for the
// message. It takes the right to delete from the stream. A stream of several
// copies is not asked: there this would be a write, and a server whose disk is
// full gives its place to another one.
func (l *Log) Stuck(ctx context.Context, stream string, replicas int) (string, error) {
	if replicas > 1 || l.unseen.is(stream) {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, stuckWait)
	defer cancel()
	err := l.ask(ctx, "$JS.API.STREAM.MSG.DELETE."+stream, fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, uint64(math.MaxInt64)))
	var said *jetstream.APIError
	switch {
	case errors.As(err, &said):
		for _, fault := range diskFaults {
			if strings.Contains(strings.ToLower(said.Description), fault) {
				return said.Description, nil
			}
		}
		return "", nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout): // as where it is not allowed
		l.unseen.add(stream)
	}
	return "", err
}

func (u *unseen) is(stream string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return time.Now().Before(u.until[stream])
}

func (u *unseen) add(stream string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil {
		u.until = map[string]time.Time{}
	}
	u.until[stream] = time.Now().Add(stuckUnseen)
}
