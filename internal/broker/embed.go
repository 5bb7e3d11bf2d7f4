package broker

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// EmbedOptions say how to run a server of our own.
type EmbedOptions struct {
	Listen  string        // loopback host:port, port 0 for a free one; empty: reachable in-process only
	DataDir string        // where JetStream keeps its files
	Sync    time.Duration // 0: every write is synced before it is acknowledged; else the interval
	Folder  *Folder       // DataDir, if it is taken already; Shutdown leaves it
	// AcceptLoss starts over a store that came up with less than it had.
	AcceptLoss bool
	Logger     *zap.Logger // gets the server's warnings and errors; nil: nobody does
}

// Embedded is a nats-server inside this process, without auth, which is why
// it listens on loopback only.
type Embedded struct {
	server *server.Server
	folder *Folder
	words  *words
	dir    string
}

// Embed starts a server and waits until it takes connections. Its data folder
// is locked for as long as it runs; ErrFolderInUse names who has it.
func Embed(o EmbedOptions) (*Embedded, error) {
	folder := o.Folder
	if folder == nil {
		var err error
		if folder, err = TakeFolder(o.DataDir); err != nil {
			return nil, fmt.Errorf("embedded NATS: %w", err)
		}
	}
	e := &Embedded{folder: folder, words: newWords(o.Logger)}
	if err := e.start(o); err != nil {
		folder.Leave()
		return nil, fmt.Errorf("embedded NATS on the data folder %s: %w", o.DataDir, err)
	}
	return e, nil
}

func (e *Embedded) start(o EmbedOptions) error {
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
			return fmt.Errorf("address %q: %w", o.Listen, err)
		}
		if options.Port == 0 {
			options.Port = server.RANDOM_PORT
		}
		// The server itself would try a taken port for as long as we wait.
		if options.Port > 0 {
			probe, err := net.Listen("tcp", o.Listen) //nolint:noctx // closed at once
			if err != nil {
				return fmt.Errorf("%w (another worker? set NATS_URL to join it, or FETCH_NATS_ADDR)", err)
			}
			_ = probe.Close()
		}
	}
	s, err := server.NewServer(options)
	if err != nil {
		return err
	}
	s.SetLoggerV2(e.words, false, false, false)
	s.Start()
	ready := e.words.failed() == nil && s.ReadyForConnections(30*time.Second)
	switch {
	case e.words.failed() != nil:
		err = e.words.failed()
	case !ready:
		err = errors.New("not ready within 30 s")
	case !s.JetStreamEnabled():
		err = errors.New("JetStream could not start")
	default:
		if err = e.whole(s, o); err == nil {
			e.server, e.dir = s, o.DataDir
			return nil
		}
	}
	s.Shutdown()
	s.WaitForShutdown()
	return err
}

// whole compares what the store holds with what it held when it was last
// looked at.
func (e *Embedded) whole(s *server.Server, o EmbedOptions) error {
	lost, err := missing(o.DataDir, s, time.Now())
	if err != nil {
		return err
	}
	if len(lost) > 0 {
		if !o.AcceptLoss {
			return fmt.Errorf("%w: %s (restore a backup, or go on without: worker --accept-loss)", ErrStoreLost, strings.Join(lost, "; "))
		}
		e.words.log.Error("the store holds less than it did, and is gone on with", zap.Strings("lost", lost))
	}
	remember(o.DataDir, s, false)
	return nil
}

// Warnings counts what the server has warned of since it started, errors
// included.
func (e *Embedded) Warnings() int64 { return e.words.warnings.Load() }

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
	remember(e.dir, e.server, true)
	e.server.Shutdown()
	e.server.WaitForShutdown()
	e.folder.Leave()
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
