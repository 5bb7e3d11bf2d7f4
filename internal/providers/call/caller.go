package call

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"fetchworker/internal/memory"
	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/redact"
)

// Caller makes the calls of one API with its key. It is safe for concurrent
// use.
type Caller struct { //nolint:recvcheck // Format must hold for copies as well
	api       *plan.API
	keys      Keys
	variable  string // of the key that an auth names none for
	redact    *redact.Redactor
	tokens    *tokens
	transport *http.Transport
	budget    *memory.Budget // of large bodies; nil: no bound
}

// DialFunc opens a connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// New is a caller of an API with what keys gives. A nil dial means the network.
func New(api *plan.API, keys Keys, dial DialFunc) *Caller {
	p := &Caller{api: api, keys: keys, variable: api.KeyVariable(), redact: redact.New(), tokens: new(tokens), transport: newTransport(dial)}
	for _, variable := range api.AllVariables() {
		p.secret(variable)
	}
	for _, fixed := range api.FixedSecrets() {
		p.redact.Add(fixed)
	}
	return p
}

// AtMost bounds the connections to the API for so many calls at once, with an
// eighth to spare for those that end. It comes before the first call. Without
// it a call that finds none free dials, also if one is about to be: at 64 calls
// at once, up to twice as many connections.
func (p *Caller) AtMost(calls int) { p.transport.MaxConnsPerHost = calls + calls/8 + 1 }

// Within bounds the memory of large bodies, of all callers of a budget
// together. It comes before the first call.
func (p *Caller) Within(b *memory.Budget) { p.budget = b }

// Configured reports whether calls can be made: every key is set, or the API
// needs none.
func (p *Caller) Configured() bool {
	return !slices.ContainsFunc(p.api.Variables(), func(variable string) bool { return p.keys(variable) == "" })
}

// Close releases the connections that are idle. Calls in flight end first.
func (p *Caller) Close() { p.transport.CloseIdleConnections() }

// Format prints the API's name, whatever the verb.
func (p Caller) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.api.Name) }

// URL is where a call goes, fit to be shown: without the key, wherever it
// would be.
func (p *Caller) URL(c *plan.Call) *url.URL {
	u := &url.URL{Scheme: p.api.Base().Scheme, Host: p.api.Base().Host}
	shown, err := u.Parse(p.redact.Text(c.Target()))
	if err != nil {
		return u
	}
	return shown
}

// mostIdle is more than any concurrency that can be set.
const mostIdle = 10_000

// silence is how long an HTTP/2 connection may bring nothing before it is
// asked for a sign of life, and then how long that may take.
const silence = 5 * time.Second

// newTransport is one provider's connections. A nil dial means the network.
func newTransport(dial DialFunc) *http.Transport {
	proxy := http.ProxyFromEnvironment
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	} else {
		proxy = nil // whoever brings a dialer decides where it leads
	}
	return &http.Transport{
		Proxy:               proxy,
		DialContext:         hearing(dial),
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		// As many as were in use together, which FETCH_CONCURRENCY bounds: with
		// fewer, each call beyond them dials anew, with TLS a handshake a call.
		MaxIdleConnsPerHost: mostIdle,
		// Below the 60 s and more after which common servers close an idle
		// connection: one that closes while we write costs an attempt.
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		// We ask for gzip ourselves: the wire's bytes must be counted.
		DisableCompression: true,
		// HTTP/2 makes all calls over one connection: a dead one is found out.
		HTTP2: &http.HTTP2Config{SendPingTimeout: silence, PingTimeout: silence, WriteByteTimeout: 2 * silence},
	}
}
