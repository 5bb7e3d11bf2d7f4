package intake

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Message is one delivery as the server sent it. The client library's own
// pull takes an empty message with a Status header, which any agent can
// publish, for the server's word, and drops it: enough of them would shut a
// shard for everybody. Here whatever can be acknowledged is a message.
type Message struct {
	nc  *nats.Conn
	raw *nats.Msg
}

// ackPrefix begins the reply subject of every delivery, and of nothing else.
const ackPrefix = "$JS.ACK."

// Subject is where the message was published.
func (m Message) Subject() string { return m.raw.Subject }

// Headers are the message's own, not a copy.
func (m Message) Headers() nats.Header { return m.raw.Header }

// Data is the body.
func (m Message) Data() []byte { return m.raw.Data }

func (m Message) say(word string) error { return m.nc.Publish(m.raw.Reply, []byte(word)) }

// Ack says that it is done, and does not wait for the server's word.
func (m Message) Ack() error { return m.nc.Publish(m.raw.Reply, ack) }

var ack = []byte("+ACK")

// Nak has it delivered again at once.
func (m Message) Nak() error { return m.say("-NAK") }

// Term says that it is never to be delivered again.
func (m Message) Term() error { return m.say("+TERM") }

// InProgress begins the ack wait anew.
func (m Message) InProgress() error { return m.say("+WPI") }

// NakWithDelay has it delivered again after a while.
func (m Message) NakWithDelay(after time.Duration) error {
	return m.say(fmt.Sprintf(`-NAK {"delay": %d}`, after.Nanoseconds()))
}

// DoubleAck waits for the server's word that the ack has arrived.
func (m Message) DoubleAck(ctx context.Context) error {
	_, err := m.nc.RequestWithContext(ctx, m.raw.Reply, []byte("+ACK"))
	if err != nil {
		return fmt.Errorf("ack: %w", err)
	}
	return nil
}
