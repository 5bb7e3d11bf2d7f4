package providers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Provider is an upstream API with its key: it plans calls and makes them.
// It is safe for concurrent use.
type Provider struct { //nolint:recvcheck // Format must hold for copies as well
	Spec // in force: catalogue, environment and tier are applied, Limits are all windows together

	base      *url.URL
	key       secret
	redact    *redactor
	patterns  map[string]*regexp.Regexp
	transport *http.Transport
}

// DialFunc opens a connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// newProvider checks a spec whole and makes it ready to call. The error names
// what is wrong, never a line or a variable: the caller knows those.
func newProvider(spec Spec, key string, dial DialFunc) (*Provider, error) {
	base, err := parseBase(spec.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("base URL: %w", err)
	}
	if err := spec.validate(); err != nil {
		return nil, err
	}
	p := &Provider{
		Spec:      spec,
		base:      base,
		key:       newSecret(key),
		redact:    newRedactor(key),
		patterns:  map[string]*regexp.Regexp{},
		transport: newTransport(dial),
	}
	p.Limits = slices.Clone(spec.Limits)
	if len(p.Limits) > 0 { // unlimited by wish means that no tier limits either
		p.Limits = append(p.Limits, spec.Tiers[spec.Tier].Limits...)
	}
	p.Operations = make(map[string]*Operation, len(spec.Operations)+1)
	for name, op := range spec.Operations {
		ready := *op
		p.Operations[name] = &ready
	}
	p.Operations[opGet] = &Operation{
		Name: opGet, Format: FormatAny, Paging: spec.GetPaging,
		Rights: allRights(spec.Operations),
	}
	for _, op := range p.Operations {
		p.prepare(op)
	}
	return p, nil
}

// validate finds what would make every call of the provider fail.
func (s *Spec) validate() error {
	errs := []error{s.Auth.validate()}
	for _, name := range slices.Sorted(maps.Keys(s.Operations)) {
		if err := s.Operations[name].validate(); err != nil {
			errs = append(errs, fmt.Errorf("operation %s: %w", name, err))
		}
	}
	for i := range s.ErrorRules {
		if err := s.ErrorRules[i].validate(); err != nil {
			errs = append(errs, fmt.Errorf("error rule %d: %w", i+1, err))
		}
	}
	if s.Timeout <= 0 {
		errs = append(errs, errors.New("timeout: expected more than nothing"))
	}
	return errors.Join(errs...)
}

// prepare fills in what an operation takes from its provider.
func (p *Provider) prepare(op *Operation) {
	if op.Fresh == 0 {
		op.Fresh = p.Fresh
	}
	if op.Stale == 0 {
		op.Stale = p.Stale
	}
	if op.Format == "" {
		op.Format = FormatJSON
	}
	for i := range op.Params {
		pattern, _ := op.Params[i].compile() // validated
		p.patterns[op.Params[i].Pattern] = pattern
	}
}

// allRights are the rights get needs: it reaches every path of the API, so it
// must not be a way around the rights of the operations that have names.
func allRights(operations map[string]*Operation) []string {
	var rights []string
	for _, op := range operations {
		rights = append(rights, op.Rights...)
	}
	slices.Sort(rights)
	return slices.Compact(rights)
}

// Configured reports whether calls can be made: the key is set, or the API
// needs none.
func (p *Provider) Configured() bool {
	return p.Auth.Kind == AuthNone || p.key.isSet()
}

// Close releases the connections that are idle. Calls in flight end first.
func (p *Provider) Close() { p.transport.CloseIdleConnections() }

// Format prints the name, whatever the verb, of a copy too: below it are a
// key and the buffers of connections that have carried it.
func (p Provider) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.Name) }

// parseBase accepts what a base URL may be and nothing that could carry a key
// or send one elsewhere.
func parseBase(text string) (*url.URL, error) {
	base, err := url.Parse(strings.TrimRight(text, "/"))
	switch {
	case err != nil: // the text of a *url.Error repeats the URL
		return nil, errors.New("not a URL")
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return nil, errors.New("expected http://host/path or https://host/path")
	case base.User != nil, base.RawQuery != "", base.Fragment != "":
		return nil, errors.New("expected a URL without user, query and fragment")
	}
	return base, nil
}

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
		DialContext:         dial,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
		// Below the 60 s and more after which common servers close an idle
		// connection: one that closes while we write costs an attempt.
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		// We ask for gzip ourselves: the wire's bytes must be counted.
		DisableCompression: true,
	}
}
