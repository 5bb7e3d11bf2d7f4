package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/wait"
)

// acks publishes and waits for the stream's word, on one subscription for all
// writes of a log. (The client library's own way makes a context, a timer, a
// channel, a random word and a decoded document for each write: a tenth of the
// allocations and of the CPU of a request.) It is safe for concurrent use.
type acks struct {
	nc *nats.Conn

	mu      sync.Mutex
	sub     *nats.Subscription // made by the first write
	inbox   string             // of the sub, with its last dot
	made    uint64
	waiting map[string]*write // by the end of their inbox
	free    []*write
}

func newAcks(nc *nats.Conn) *acks { return &acks{nc: nc, waiting: map[string]*write{}} }

// write is one that waits for its word. It is used again.
type write struct {
	message nats.Msg // as it is sent
	said    chan *nats.Msg
	late    *time.Timer
}

const (
	// writeLasts is how long the word is waited for.
	writeLasts = 5 * time.Second
	// writesFree are kept for the next.
	writesFree = 256
	// Where no stream listens, one is perhaps about to: a leader moves.
	unheardTries = 2
	unheardWait  = 250 * time.Millisecond
)

// errClosed says that the connection was closed over a write: nobody will say
// what became of it.
var errClosed = fmt.Errorf("the server's word of a write can no longer come: %w", nats.ErrConnectionClosed)

// errLate says that the server has not said in time what became of a write.
var errLate = fmt.Errorf("the server said nothing of a write: %w", context.DeadlineExceeded)

// publish writes once. The errors are those of jetstream's PublishMsg, errLate,
// and errClosed where the connection was closed meanwhile.
func (a *acks) publish(ctx context.Context, m *nats.Msg) (jetstream.PubAck, error) {
	var said *nats.Msg
	for try := 0; ; try++ {
		var err error
		if said, err = a.ask(ctx, m); err != nil {
			return jetstream.PubAck{}, err
		}
		if len(said.Data) > 0 || said.Header.Get("Status") != "503" {
			break
		}
		if try == unheardTries {
			return jetstream.PubAck{}, jetstream.ErrNoStreamResponse
		}
		if err := wait.For(ctx, unheardWait); err != nil {
			return jetstream.PubAck{}, err
		}
	}
	return ackOf(said.Data)
}

func (a *acks) ask(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	w, token, reply, err := a.begin()
	if err != nil {
		return nil, err
	}
	sent := &w.message
	sent.Subject, sent.Reply, sent.Header, sent.Data = m.Subject, reply, m.Header, m.Data
	err = a.nc.PublishMsg(sent)
	sent.Header, sent.Data = nil, nil
	if err != nil {
		a.end(token, w)
		return nil, err
	}
	select {
	case said := <-w.said:
		a.end(token, w)
		if said == nil {
			return nil, errClosed
		}
		return said, nil
	case <-ctx.Done():
		a.end(token, w)
		return nil, ctx.Err()
	case <-w.late.C:
		a.end(token, w)
		return nil, errLate
	}
}

func (a *acks) begin() (w *write, token, reply string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sub == nil || !a.sub.IsValid() {
		inbox := a.nc.NewInbox() + "."
		if a.sub, err = a.nc.Subscribe(inbox+"*", a.take); err != nil {
			return nil, "", "", err
		}
		a.sub.SetClosedHandler(func(string) { a.closed(inbox) })
		a.inbox = inbox
	}
	if last := len(a.free) - 1; last >= 0 {
		w, a.free = a.free[last], a.free[:last]
		w.late.Reset(writeLasts)
	} else {
		w = &write{said: make(chan *nats.Msg, 1), late: time.NewTimer(writeLasts)}
	}
	a.made++
	var room [128]byte
	reply = string(strconv.AppendUint(append(room[:0], a.inbox...), a.made, 36))
	token = reply[len(a.inbox):]
	a.waiting[token] = w
	return w, token, reply, nil
}

// end forgets a write; what is said of it from now on is heard by nobody.
func (a *acks) end(token string, w *write) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, token)
	w.late.Stop()
	select {
	case <-w.said: // while it was given up
	default:
	}
	if len(a.free) < writesFree {
		a.free = append(a.free, w)
	}
}

// take hands the server's word to whoever waits for it.
func (a *acks) take(m *nats.Msg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(m.Subject) < len(a.inbox) {
		return
	}
	token := m.Subject[len(a.inbox):]
	if w := a.waiting[token]; w != nil {
		delete(a.waiting, token) // a second word is of nobody's
		w.said <- m              // which has room for the one
	}
}

// closed ends the wait of all writes: their subscription has ended, with its
// connection.
func (a *acks) closed(inbox string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inbox != inbox {
		return
	}
	for token, w := range a.waiting {
		delete(a.waiting, token)
		w.said <- nil // which has room for the one
	}
}

// ackOf reads the stream's word. That all is well is said in the same letters
// each time, and is cut out of them.
func ackOf(said []byte) (jetstream.PubAck, error) {
	if rest, ok := bytes.CutPrefix(said, []byte(`{"stream":"`)); ok {
		if name, number, ok := bytes.Cut(rest, []byte(`","seq":`)); ok && len(number) > 1 && number[len(number)-1] == '}' {
			if seq, err := strconv.ParseUint(string(number[:len(number)-1]), 10, 64); err == nil && len(name) > 0 {
				return jetstream.PubAck{Sequence: seq}, nil
			}
		}
	}
	var word struct {
		jetstream.PubAck
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(said, &word); err != nil {
		return jetstream.PubAck{}, errors.Join(jetstream.ErrInvalidJSAck, err)
	}
	if word.Error != nil {
		return jetstream.PubAck{}, fmt.Errorf("the stream says: %w", word.Error)
	}
	if word.Stream == "" {
		return jetstream.PubAck{}, jetstream.ErrInvalidJSAck
	}
	return word.PubAck, nil
}
