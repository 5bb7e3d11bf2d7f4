package fetchworker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// pull asks for the messages of a consumer and takes them on one subscription,
// from the first to the last: the client library's own, which makes one for
// each question, drops what comes in the moment it ends.
type pull struct {
	nc    *nats.Conn
	sub   *nats.Subscription
	inbox string
	next  string // the subject to ask on
	asked int
}

const (
	// pullLasts is how long a question stays open; a reconnect can lose one.
	pullLasts = 5 * time.Second
	// pullLate is how much later the server's word that it is over may come.
	pullLate = 2 * time.Second
	// ackPrefix begins the reply subject of every delivery, and of nothing else.
	ackPrefix = "$JS.ACK."
)

func (s *Subscriber) openPull(stream string) (*pull, error) {
	p := &pull{nc: s.nc, inbox: s.nc.NewInbox() + ".", next: s.api + "CONSUMER.MSG.NEXT." + stream + "." + s.durable}
	sub, err := s.nc.SubscribeSync(p.inbox + "*")
	if err != nil {
		return nil, fmt.Errorf("pull from %s: %w", s.durable, closedBy(err))
	}
	p.sub = sub
	return p, nil
}

func closedBy(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// ask asks for n messages and gives those that come. over: the question was
// answered, or its time has passed; without it something is wrong with the
// consumer or its server. The error is of the connection.
func (p *pull) ask(ctx context.Context, n int, give func(*nats.Msg)) (over bool, err error) {
	p.asked++
	inbox := p.inbox + strconv.Itoa(p.asked)
	question := fmt.Appendf(nil, `{"batch":%d,"expires":%d}`, n, pullLasts.Nanoseconds())
	if err := p.nc.PublishRequest(p.next, inbox, question); err != nil {
		return false, closedBy(err)
	}
	open, end := context.WithTimeout(ctx, pullLasts+pullLate)
	defer end()
	for n > 0 {
		m, err := p.sub.NextMsgWithContext(open)
		switch {
		case err != nil && open.Err() != nil: // what came in that moment is given all the same
			return true, nil
		case err != nil:
			return false, closedBy(err)
		case strings.HasPrefix(m.Reply, ackPrefix):
			give(m)
			n--
		case m.Subject == inbox: // the server's word on this question
			return m.Header.Get("Status") == "408", nil
		}
	}
	return true, nil
}

// close ends the subscription, and hands back what was sent to it.
func (p *pull) close() {
	if p.sub.Drain() != nil {
		return // the connection is gone, and with it what was on its way
	}
	ctx, cancel := context.WithTimeout(context.Background(), pullLate)
	defer cancel()
	for {
		m, err := p.sub.NextMsgWithContext(ctx)
		if err != nil {
			return
		}
		if strings.HasPrefix(m.Reply, ackPrefix) {
			_ = m.Nak()
		}
	}
}
