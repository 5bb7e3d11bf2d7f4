package broker

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// EmbedOptions say how to run a server of our own.
type EmbedOptions struct {
	Listen  string        // loopback host:port, port 0 for a free one; empty: reachable in-process only
	DataDir string        // where JetStream keeps its files
	Sync    time.Duration // 0: every write is synced before it is acknowledged; else the interval
}

// Embedded is a nats-server inside this process, without auth, which is why
// it listens on loopback only.
type Embedded struct {
	server *server.Server
}

// Embed starts a server and waits until it takes connections.
func Embed(o EmbedOptions) (*Embedded, error) {
	options := &server.Options{
		ServerName: "fetchworker",
		JetStream:  true, StoreDir: o.DataDir,
		// Stream limits say what may be stored. The server's own guess from
		// the free disk would refuse the topology on a small one.
		JetStreamMaxStore: 1 << 50,
		SyncAlways:        o.Sync == 0, SyncInterval: o.Sync,
		NoSigs: true, NoLog: true, DontListen: o.Listen == "",
	}
	if o.Listen != "" {
		var err error
		if options.Host, options.Port, err = ListenAddress(o.Listen); err != nil {
			return nil, fmt.Errorf("embedded NATS address %q: %w", o.Listen, err)
		}
		if options.Port == 0 {
			options.Port = server.RANDOM_PORT
		}
		// The server itself would only log that its port is taken.
		if options.Port > 0 {
			probe, err := net.Listen("tcp", o.Listen) //nolint:noctx // closed at once
			if err != nil {
				return nil, fmt.Errorf("embedded NATS: %w (another worker? set NATS_URL to join it, or FETCH_NATS_ADDR)", err)
			}
			_ = probe.Close()
		}
	}
	s, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		return nil, errors.New("embedded NATS: not ready within 30 s; is its data directory in use?")
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		return nil, fmt.Errorf("embedded NATS: JetStream could not start in %s", o.DataDir)
	}
	return &Embedded{server: s}, nil
}

// URL is where others reach the server; empty when it does not listen.
func (e *Embedded) URL() string {
	if e.server.Addr() == nil {
		return ""
	}
	return e.server.ClientURL()
}

// Connect connects in-process.
func (e *Embedded) Connect(options ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect("", append([]nats.Option{nats.InProcessServer(e.server), nats.MaxReconnects(-1)}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded NATS: %w", err)
	}
	return nc, nil
}

// Shutdown stops the server and waits until its files are closed.
func (e *Embedded) Shutdown() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

// ListenAddress reads where an embedded server is to listen.
func ListenAddress(address string) (host string, port int, err error) {
	host, number, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", 0, errors.New("it has no auth and listens on loopback only")
	}
	if port, err = strconv.Atoi(number); err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%q is no port", number)
	}
	return host, port, nil
}
