package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// message is one delivery as the server sent it. The client library's own
// pull takes an empty message with a Status header, which any agent can
// publish, for the server's word, and drops it: enough of them would shut a
// shard for everybody. Here whatever can be acknowledged is a message.
type message struct {
	nc  *nats.Conn
	raw *nats.Msg
}

// ackPrefix begins the reply subject of every delivery, and of nothing else.
const ackPrefix = "$JS.ACK."

func (m message) Subject() string                      { return m.raw.Subject }
func (m message) Headers() nats.Header                 { return m.raw.Header }
func (m message) Data() []byte                         { return m.raw.Data }
func (m message) Metadata() (*nats.MsgMetadata, error) { return m.raw.Metadata() }
func (m message) say(word string) error                { return m.nc.Publish(m.raw.Reply, []byte(word)) }
func (m message) Ack() error                           { return m.say("+ACK") }
func (m message) Nak() error                           { return m.say("-NAK") }
func (m message) Term() error                          { return m.say("+TERM") }
func (m message) InProgress() error                    { return m.say("+WPI") }
func (m message) NakWithDelay(after time.Duration) error {
	return m.say(fmt.Sprintf(`-NAK {"delay": %d}`, after.Nanoseconds()))
}

// DoubleAck waits for the server's word that the ack has arrived.
func (m message) DoubleAck(ctx context.Context) error {
	_, err := m.nc.RequestWithContext(ctx, m.raw.Reply, []byte("+ACK"))
	if err != nil {
		return fmt.Errorf("ack: %w", err)
	}
	return nil
}

const (
	// pullLasts is how long one pull request stays open at the server. It is
	// answered as soon as there is work, so an idle shard costs one request in
	// this time.
	pullLasts = 30 * time.Second
	// pullBeats is how often the server says that the pull is still open; two
	// that are missing mean that it is not.
	pullBeats = 5 * time.Second
)

var errPull = errors.New("pull")

// fetch makes one pull request for n messages. A consumer that is gone, a
// leader that moved, a lost heartbeat: all are an error here, and the next
// pull finds out. What arrives while ctx ends is delivered all the same.
func (s *shard) fetch(ctx, epoch context.Context, n int, deliver func(message)) (got int, err error) {
	ctx, cancel := context.WithTimeout(ctx, pullLasts)
	defer cancel()
	release := context.AfterFunc(epoch, cancel)
	defer release()
	request, err := json.Marshal(struct {
		Batch   int           `json:"batch"`
		Expires time.Duration `json:"expires"`
		Beats   time.Duration `json:"idle_heartbeat"`
	}{n, pullLasts - time.Second, pullBeats})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errPull, err)
	}
	inbox, replies := s.nc.NewInbox(), make(chan *nats.Msg, n+8)
	sub, err := s.nc.ChanSubscribe(inbox, replies)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errPull, err)
	}
	defer func() {
		_ = sub.Unsubscribe() // the connection is gone then
		for {
			select {
			case m := <-replies:
				if strings.HasPrefix(m.Reply, ackPrefix) {
					got++
					deliver(message{s.nc, m})
				}
			default:
				return
			}
		}
	}()
	info := s.consumer.CachedInfo()
	if err := s.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+info.Stream+"."+info.Name, inbox, request); err != nil {
		return 0, fmt.Errorf("%w: %w", errPull, err)
	}
	silence := time.NewTimer(2 * pullBeats)
	defer silence.Stop()
	for got < n {
		select {
		case <-ctx.Done():
			return got, nil
		case <-silence.C:
			return got, fmt.Errorf("%w: the server is silent", errPull)
		case m := <-replies:
			silence.Reset(2 * pullBeats)
			if strings.HasPrefix(m.Reply, ackPrefix) {
				got++
				deliver(message{s.nc, m})
				continue
			}
			switch status := m.Header.Get("Status"); status {
			case "100": // still open
			case "404", "408": // over, with nothing more
				return got, nil
			default:
				return got, fmt.Errorf("%w: the server says %s %s", errPull, status, m.Header.Get("Description"))
			}
		}
	}
	return got, nil
}
