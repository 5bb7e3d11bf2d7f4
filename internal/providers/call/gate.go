package call

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http/httptrace"
	"sync/atomic"
)

// writeGate is the last check before a request is written, and the proof that
// it is written at most once.
type writeGate struct {
	before  func() error
	after   func()
	cancel  context.CancelFunc
	refused atomic.Pointer[error]
	sent    atomic.Bool // the request may have reached the wire
	written atomic.Bool // its header was handed to the connection
	shared  atomic.Pointer[shared]
}

func (w *writeGate) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:      w.gotConn,
		WroteHeaders: func() { w.written.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) {
			if w.after != nil {
				w.after()
			}
		},
	})
}

func (w *writeGate) gotConn(info httptrace.GotConnInfo) {
	err := error(nil)
	switch {
	case w.written.Load():
		err = ErrRetried
	case w.before != nil:
		err = w.before()
	}
	if err == nil {
		w.shared.Store(sharedConn(info))
		w.sent.Store(true)
		return
	}
	if !w.written.Load() {
		w.sent.Store(false) // an earlier connection was closed before it took anything
	}
	// Cancelling alone races with the write on HTTP/1.1, so the connection is
	// closed too. On HTTP/2 it is shared, and cancelling suffices.
	w.refused.Store(&err)
	w.cancel()
	if conn, ok := info.Conn.(*tls.Conn); ok && conn.ConnectionState().NegotiatedProtocol == "h2" {
		return
	}
	_ = info.Conn.Close()
}

// cause is why the round trip failed: our refusal, if there was one.
func (w *writeGate) cause(err error) error {
	if refused := w.refused.Load(); refused != nil {
		return fmt.Errorf("not sent: %w", *refused)
	}
	return err
}
