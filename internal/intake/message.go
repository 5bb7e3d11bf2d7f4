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

func (m Message) Subject() string       { return m.raw.Subject }
func (m Message) Headers() nats.Header  { return m.raw.Header }
func (m Message) Data() []byte          { return m.raw.Data }
func (m Message) say(word string) error { return m.nc.Publish(m.raw.Reply, []byte(word)) }
func (m Message) Ack() error            { return m.say("+ACK") }
func (m Message) Nak() error            { return m.say("-NAK") }
func (m Message) Term() error           { return m.say("+TERM") }
func (m Message) InProgress() error     { return m.say("+WPI") }
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
