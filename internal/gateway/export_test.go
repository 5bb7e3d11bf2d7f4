package gateway

import "time"

// Hurry gives everything up soon, so that tests need not wait.
func (c *Config) Hurry() {
	c.patience = patience{header: time.Second / 2, body: time.Second / 2, write: time.Second / 2, slow: time.Second / 10, store: time.Second / 2}
}
