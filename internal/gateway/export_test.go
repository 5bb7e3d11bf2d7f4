package gateway

import "time"

// Hurry gives everything up soon, so that tests need not wait.
func (c *Config) Hurry() {
	c.patience = patience{header: time.Second, body: time.Second, write: 3 * time.Second / 2, slow: time.Second / 10, store: 3 * time.Second}
}
