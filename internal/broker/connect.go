package broker

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natscontext"
)

// Connect joins a server and keeps trying while it cannot be reached, up to
// half a minute: at a start of everything together the server may come last.
func Connect(ctx context.Context, a Address, onError func(error)) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name(a.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.Timeout(5 * time.Second),
		nats.PingInterval(10 * time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { onError(err) }),
	}
	if a.Inbox != "" {
		options = append(options, nats.CustomInboxPrefix(a.Inbox))
	}
	if a.Creds != "" {
		options = append(options, nats.UserCredentials(a.Creds))
	}
	dial := func() (*nats.Conn, error) {
		if a.URL == "" {
			nc, _, err := natscontext.Connect(a.Context, options...)
			return nc, err
		}
		return nats.Connect(a.URL, options...)
	}
	patience, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		nc, err := dial()
		if err == nil {
			if err := Check(nc); err != nil {
				nc.Close()
				return nil, err
			}
			return nc, nil
		}
		if unreadable := new(url.Error); errors.As(err, &unreadable) {
			return nil, fmt.Errorf("connect to NATS: the address %s cannot be read", a) // the error itself holds the password
		}
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			return nil, fmt.Errorf("connect to NATS: %w", err)
		}
		select {
		case <-patience.Done():
			return nil, fmt.Errorf("connect to NATS: %w", err)
		case <-time.After(500 * time.Millisecond): //nolint:forbidigo // beside ctx
		}
	}
}

// oldest is the first server that has counters.
const oldestMajor, oldestMinor = 2, 12

// ErrServerTooOld says that the server lacks what fetchworker stands on.
var ErrServerTooOld = errors.New("the NATS server is too old")

// Check refuses a server that cannot carry the service: older than 2.12 (no
// counters), or with a payload limit below an answer's size.
func Check(nc *nats.Conn) error {
	version := nc.ConnectedServerVersion()
	if !newEnough(version) {
		return fmt.Errorf("%w: it is %s, and fetchworker needs %d.%d or newer (counter streams)", ErrServerTooOld, version, oldestMajor, oldestMinor)
	}
	if need := int64(fetchworker.MaxInlineBody + 64<<10); nc.MaxPayload() < need {
		return fmt.Errorf("the NATS server's max_payload is %d bytes; answers need at least %d", nc.MaxPayload(), need)
	}
	return nil
}

func newEnough(version string) bool {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil {
		return false
	}
	return major > oldestMajor || major == oldestMajor && minor >= oldestMinor
}

// JetStream opens JetStream with what our writes need: an async publish waits
// for room instead of failing, and its ack has a limit.
func JetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	js, err := jetstream.New(nc,
		jetstream.WithPublishAsyncMaxPending(256),
		jetstream.WithPublishAsyncTimeout(15*time.Second),
		jetstream.WithDefaultTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return js, nil
}
