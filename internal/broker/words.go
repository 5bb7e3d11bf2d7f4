package broker

import (
	"fmt"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
)

// words is the embedded server's logger: what it warns of is ours to tell,
// since nobody else reads it.
type words struct {
	log      *zap.Logger
	warnings atomic.Int64

	mu    sync.Mutex
	fatal error // the server does not end the process; whoever starts it asks
}

func newWords(log *zap.Logger) *words {
	if log == nil {
		log = zap.NewNop()
	}
	return &words{log: log.Named("nats-server")}
}

func (w *words) Warnf(format string, v ...any) {
	w.warnings.Add(1)
	w.log.Warn(fmt.Sprintf(format, v...))
}

func (w *words) Errorf(format string, v ...any) {
	w.warnings.Add(1)
	w.log.Error(fmt.Sprintf(format, v...))
}

func (w *words) Fatalf(format string, v ...any) {
	w.Errorf(format, v...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fatal == nil {
		w.fatal = fmt.Errorf(format, v...)
	}
}

func (w *words) Noticef(format string, v ...any) { w.log.Debug(fmt.Sprintf(format, v...)) }

// The server is not asked for these.
func (w *words) Debugf(string, ...any) {}
func (w *words) Tracef(string, ...any) {}

// failed is why the server could not start, nil if it could.
func (w *words) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fatal
}
