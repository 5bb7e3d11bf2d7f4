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
	within  *patience // of the call, which a refusal ends
	hooks   httptrace.ClientTrace
	refused atomic.Pointer[error]
	sent    atomic.Bool // the request may have reached the wire
	written atomic.Bool // its header was handed to the connection
	shared  atomic.Pointer[shared]
}

func (w *writeGate) trace(ctx context.Context) context.Context {
	w.hooks.GotConn = w.gotConn
	w.hooks.WroteHeaders = func() { w.written.Store(true) }
	if w.after != nil {
		w.hooks.WroteRequest = func(httptrace.WroteRequestInfo) { w.after() }
	}
	return httptrace.WithClientTrace(ctx, &w.hooks)
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
	w.refuse(err, info)
}

// refuse keeps the request from being written. (It is apart because the error's
// place would be made for every call, refused or not.)
func (w *writeGate) refuse(err error, info httptrace.GotConnInfo) {
	// Cancelling alone races with the write on HTTP/1.1, so the connection is
	// closed too. On HTTP/2 it is shared, and cancelling suffices.
	w.refused.Store(&err)
	w.within.cancel(context.Canceled)
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
