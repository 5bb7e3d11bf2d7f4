package fetch

import (
	"context"
	"fmt"
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

func (m message) Subject() string       { return m.raw.Subject }
func (m message) Headers() nats.Header  { return m.raw.Header }
func (m message) Data() []byte          { return m.raw.Data }
func (m message) say(word string) error { return m.nc.Publish(m.raw.Reply, []byte(word)) }
func (m message) Ack() error            { return m.say("+ACK") }
func (m message) Nak() error            { return m.say("-NAK") }
func (m message) Term() error           { return m.say("+TERM") }
func (m message) InProgress() error     { return m.say("+WPI") }
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
