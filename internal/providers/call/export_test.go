package call

import "crypto/x509"

// Trust makes a caller trust a test's certificates.
func Trust(c *Caller, pool *x509.CertPool) { c.transport.TLSClientConfig.RootCAs = pool }
