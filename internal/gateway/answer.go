package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"fetchworker"
)

// tell writes what an answer says of itself into headers: Fetch-… as in the
// store, but for where its parts lie.
func tell(h http.Header, a fetchworker.Answer) {
	m := a.Encode()
	for name, values := range m.Header {
		if strings.HasPrefix(name, "Fetch-") && !strings.HasPrefix(name, "Fetch-Body-") {
			h[name] = values
		}
	}
	if a.Problem != nil {
		h.Del("Fetch-Sha256") // of the problem as it is stored, under another status
	}
}

// answer answers with a final answer: the provider's bytes, or the problem. It
// is fresh for so long; 0: a cache asks each time whether it still is. The body
// is taken out of it.
func (g *Gateway) answer(c *call, a *fetchworker.Answer, fresh time.Duration) {
	h := c.w.Header()
	tell(h, *a)
	if a.Problem != nil {
		failed(c.w, *a.Problem)
		return
	}
	h.Set("Content-Type", a.ContentType)
	h.Set("Vary", "Origin, Authorization, Fetch-Agent, Cache-Control")
	size := int64(len(a.Body))
	if a.Claim != nil {
		size = a.Claim.Bytes
	}
	if a.SHA256 != "" {
		h.Set("ETag", `"`+a.SHA256+`"`)
	}
	if !a.FetchedAt.IsZero() {
		age := max(time.Since(a.FetchedAt), a.Age, 0)
		h.Set("Age", strconv.Itoa(int(age/time.Second)))
	}
	h.Set("Cache-Control", "private, no-cache")
	if fresh > 0 && a.Status == fetchworker.StatusOK {
		h.Set("Cache-Control", "private, max-age="+strconv.Itoa(int(fresh/time.Second)))
	}
	if c.r.Method != http.MethodPost && matches(c.r.Header.Values("If-None-Match"), h.Get("ETag")) {
		h.Del("Content-Type")
		c.w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	if c.r.Method == http.MethodHead {
		c.w.WriteHeader(http.StatusOK)
		return
	}
	if err := g.send(c, a); err != nil {
		if c.w.status == 0 {
			h.Del("Content-Length")
			h.Del("ETag")
			g.failed(c, a.Identity, err)
			return
		}
		// What was promised cannot be sent any more: the client must see that.
		panic(http.ErrAbortHandler)
	}
}

// matches reports whether the client has the answer already.
func matches(conditions []string, tag string) bool {
	for condition := range strings.SplitSeq(strings.Join(conditions, ","), ",") {
		condition = strings.TrimPrefix(strings.TrimSpace(condition), "W/")
		if condition == "*" || tag != "" && condition == tag {
			return true
		}
	}
	return false
}

const (
	// pieceBytes is what is written at a time, and held while a client is slow.
	pieceBytes = 64 << 10
)

// send writes the body, in parts as it is stored. The last part comes when the
// whole was checked.
func (g *Gateway) send(c *call, a *fetchworker.Answer) error {
	if a.Claim == nil {
		g.small.Store(time.Now().UnixNano())
		part := &loaned{bytes: a.Body}
		id := a.Identity
		sum := a.SHA256
		a.Body = nil // held by the loan alone
		return c.write(part, func(ctx context.Context) ([]byte, error) {
			again, err := c.agent.Result(ctx, id)
			if err == nil && (again.SHA256 != sum || again.Claim != nil) {
				err = fmt.Errorf("another answer has come: %w", fetchworker.ErrBodyCorrupt)
			}
			return again.Body, err
		})
	}
	next, stop := iter.Pull2(c.agent.Parts(c.ctx, *a))
	defer stop()
	for number := 1; ; number++ {
		var part []byte
		var more bool
		err := g.parted(c.ctx, func() (err error) {
			part, err, more = next()
			return err
		})
		if err != nil || !more {
			return err
		}
		size := len(part)
		err = c.write(&loaned{bytes: part}, func(ctx context.Context) (again []byte, err error) {
			err = g.parted(ctx, func() (err error) {
				again, err = c.agent.Part(ctx, *a, number)
				return err
			})
			if err == nil && len(again) != size {
				err = fmt.Errorf("part %d has changed: %w", number, fetchworker.ErrBodyCorrupt)
			}
			return again, err
		})
		if err != nil {
			return err
		}
	}
}

// partsAtOnce are on their way to the gateway at a time: 2 MiB. All its clients
// have one connection, and a small answer waits behind what is on it; a server
// ends one that it has more than 64 MiB for, and then everybody's answers are
// late. With more nothing is faster.
const partsAtOnce = 4

// parted reads a part of a large body when its turn comes. While small answers
// are on their way it then rests for as long as that took: they wait for the
// same connection, and for the same processors.
func (g *Gateway) parted(ctx context.Context, read func() error) error {
	select {
	case g.parts <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-g.parts }()
	began := time.Now()
	if err := read(); err != nil {
		return err
	}
	if now := time.Now(); now.UnixNano()-g.small.Load() < int64(smallWithin) {
		rest := time.NewTimer(now.Sub(began))
		defer rest.Stop()
		select {
		case <-rest.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// smallWithin is how lately a small answer was, if others may be on their way.
const smallWithin = 250 * time.Millisecond

// loaned are bytes that a slow client does not keep from being freed.
type loaned struct {
	mu    sync.Mutex
	bytes []byte
	whole int
}

func (l *loaned) letGo() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes = nil
}

// piece copies the next bytes, reading all again if they were let go.
func (l *loaned) piece(ctx context.Context, into []byte, from int, again func(context.Context) ([]byte, error)) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes == nil && from < l.whole {
		read, err := again(ctx)
		if err != nil {
			return 0, err
		}
		if len(read) != l.whole {
			return 0, fmt.Errorf("%d bytes instead of %d: %w", len(read), l.whole, fetchworker.ErrBodyCorrupt)
		}
		l.bytes = read
	}
	return copy(into, l.bytes[from:]), nil
}

var pieces = sync.Pool{New: func() any { return new([pieceBytes]byte) }}

// write writes bytes piece by piece. Those of a client that is slow to take
// them are let go meanwhile: only a piece is held.
func (c *call) write(part *loaned, again func(context.Context) ([]byte, error)) error {
	part.whole = len(part.bytes)
	buffer, ok := pieces.Get().(*[pieceBytes]byte)
	if !ok {
		return errors.New("no buffer")
	}
	defer pieces.Put(buffer)
	for at := 0; at < part.whole; {
		n, err := part.piece(c.ctx, buffer[:], at, again)
		if err != nil {
			return err
		}
		slow := time.AfterFunc(c.w.patience.slow, part.letGo)
		_, err = c.w.Write(buffer[:n])
		slow.Stop()
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		at += n
	}
	return nil
}
