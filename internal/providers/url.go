package providers

import "net/url"

// URL is where a call goes, fit to be shown: without the key, wherever it
// would be.
func (p *Provider) URL(c *Call) *url.URL {
	u := &url.URL{Scheme: p.base.Scheme, Host: p.base.Host}
	shown, err := u.Parse(p.redact.text(c.Target()))
	if err != nil {
		return u
	}
	return shown
}
