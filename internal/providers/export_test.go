package providers

import "crypto/x509"

// Sheet is a built-in data sheet as it is written, before anything is applied.
func Sheet(name, baseURL string) Spec { return builtins[name](baseURL) }

// Verdict is the classification of an answer, for tables.
func Verdict(p *Provider, format Format, status int, contentType string, body []byte, readErr error) *Result {
	v := p.classify(format, status, contentType, body, readErr)
	return &Result{Class: v.class, Code: v.code, Detail: v.detail, MinHold: v.minHold, Cacheable: !v.noCache}
}

// Unprepared is the sheet a provider was made of, under another name.
func Unprepared(p *Provider, name, envPrefix string) Spec {
	spec := p.written
	spec.Name, spec.EnvPrefix = name, envPrefix
	return spec
}

// Trust makes a provider trust a test's certificates.
func Trust(p *Provider, pool *x509.CertPool) { p.transport.TLSClientConfig.RootCAs = pool }
