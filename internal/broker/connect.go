package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/dial"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// patience is how long a start waits for a server, and how often it says so.
const (
	patience  = 30 * time.Second
	sayAgain  = 10 * time.Second
	dialAgain = 500 * time.Millisecond
)

// Connect joins a server and keeps trying while it cannot be reached, up to
// half a minute: at a start of everything together the server may come last.
// The log hears what the connection waits for, and that it was lost and
// regained; onError hears what the server refuses, nil logs that too.
func Connect(ctx context.Context, a dial.Address, log *zap.Logger, onError func(error)) (*nats.Conn, error) {
	options := append(Watched(log, onError),
		nats.Name(a.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250*time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.Timeout(5*time.Second),
		nats.PingInterval(10*time.Second),
	)
	if a.Inbox != "" {
		options = append(options, nats.CustomInboxPrefix(a.Inbox))
	}
	options = append(options, gathering)
	if err := a.Check(options); err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var said time.Time
	for {
		nc, err := a.Dial(options)
		if err == nil {
			if err := Check(nc, a); err != nil {
				nc.Close()
				return nil, err
			}
			return nc, nil
		}
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			return nil, fmt.Errorf("connect to NATS at %s: %w", a, err)
		}
		if time.Since(said) >= sayAgain {
			said = time.Now()
			log.Warn("waiting for NATS", zap.Stringer("at", a), zap.Error(err))
		}
		select {
		case <-waiting.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				err = context.Canceled
			}
			return nil, fmt.Errorf("connect to NATS at %s: %w", a, err)
		case <-time.After(dialAgain): //nolint:forbidigo // beside ctx
		}
	}
}

// Watched are the options by which what happens to a connection is logged.
func Watched(log *zap.Logger, onError func(error)) []nats.Option {
	if onError == nil {
		onError = func(err error) { log.Warn("nats", zap.Error(err)) }
	}
	return []nats.Option{
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { onError(err) }),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				log.Warn("connection to NATS lost", zap.Error(err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("connection to NATS regained", zap.String("at", nc.ConnectedUrlRedacted()))
		}),
		nats.LameDuckModeHandler(func(nc *nats.Conn) {
			log.Warn("the NATS server is about to stop (lame duck mode)", zap.String("at", nc.ConnectedUrlRedacted()))
		}),
	}
}

// oldest is the first server that has counters.
const oldestMajor, oldestMinor = 2, 12

// ErrServerTooOld says that the server lacks what fetchworker stands on.
var ErrServerTooOld = errors.New("the NATS server is too old")

// Check refuses a server that cannot carry the service: older than 2.12 (no
// counters), with a payload limit below an answer's size, or where the user
// cannot hear a reply, so that every request would only time out.
func Check(nc *nats.Conn, a dial.Address) error {
	version := nc.ConnectedServerVersion()
	if !atLeast(version, oldestMajor, oldestMinor) {
		return fmt.Errorf("%w: it is %s, and fetchworker needs %d.%d or newer (counter streams)", ErrServerTooOld, version, oldestMajor, oldestMinor)
	}
	inbox := nc.NewRespInbox()
	replies, err := nc.SubscribeSync(inbox)
	if err == nil {
		err = nc.FlushTimeout(5 * time.Second)
	}
	if err == nil {
		err = replies.Unsubscribe()
	}
	if last := nc.LastError(); err == nil && errors.Is(last, nats.ErrPermissionViolation) {
		return fmt.Errorf("this user may not listen to replies on %s: set NATS_INBOX_PREFIX (in a context: inbox_prefix) to the user's own, such as _INBOX_worker; now it is %q: %w", inbox, a.Inbox, last)
	}
	if err != nil {
		return fmt.Errorf("listen to replies: %w", err)
	}
	// An account's own limit comes with a second INFO, some time before the first
	// reply.
	if need := int64(fetchworker.MaxInlineBody + 64<<10); nc.MaxPayload() < need {
		return fmt.Errorf("the NATS server's max_payload is %d bytes; answers need at least %d", nc.MaxPayload(), need)
	}
	return nil
}

func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return false
	}
	x, err1 := strconv.Atoi(parts[0])
	y, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil {
		return false
	}
	return x > major || x == major && y >= minor
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
