package gateway

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/gateway/openapi"
)

// apiAge is how long a description is kept: as long as the sheets it is made of.
const apiAge = 30 * time.Second

// cachedAPI is the description that was made last.
type cachedAPI struct {
	mu   sync.Mutex
	text []byte
	tag  string
	at   time.Time
}

// openAPI answers with an OpenAPI document of all that is served.
func (g *Gateway) openAPI(c *call) {
	text, tag, err := g.api.get(c.ctx, g.describe)
	if err != nil {
		g.failed(c, fetchworker.Identity{}, err)
		return
	}
	h := c.w.Header()
	h.Set("Cache-Control", "private, no-cache")
	h.Set("ETag", tag)
	if matches(c.r.Header.Values("If-None-Match"), tag) {
		c.w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "application/json")
	_, _ = c.w.Write(text) // the client is gone then
}

// describe makes the description of what can be asked now.
func (g *Gateway) describe(ctx context.Context) ([]byte, error) {
	all, err := g.catalogue.All(ctx)
	if err != nil {
		return nil, err
	}
	return openapi.Document(all, g.config.Version, g.config.Tokens != nil)
}

func (a *cachedAPI) get(ctx context.Context, describe func(context.Context) ([]byte, error)) (text []byte, tag string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.text != nil && time.Since(a.at) < apiAge {
		return a.text, a.tag, nil
	}
	if text, err = describe(ctx); err != nil {
		return nil, "", err
	}
	a.text, a.tag, a.at = text, fmt.Sprintf(`"%x"`, sha256.Sum256(text)), time.Now()
	return a.text, a.tag, nil
}
