package providers

import "crypto/x509"

// Verdict is the classification of an answer, for tables.
func Verdict(p *Provider, format Format, status int, contentType string, body []byte, readErr error) *Result {
	v := p.classify(format, status, contentType, body, readErr)
	return &Result{Class: v.class, Code: v.code, Detail: v.detail, MinHold: v.minHold, Cacheable: !v.noCache}
}

// Trust makes a provider trust a test's certificates.
func Trust(p *Provider, pool *x509.CertPool) { p.transport.TLSClientConfig.RootCAs = pool }

// Plausible reports whether a status can be one of an answer.
var Plausible = plausible
