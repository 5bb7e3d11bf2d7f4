package fetchworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Catalogue is what can be asked of a provider, as the fleet tells it.
type Catalogue struct {
	Provider   string               `json:"provider"`
	Configured bool                 `json:"configured"` // whoever told it has a key for it
	Notice     string               `json:"notice,omitempty"`
	Operations []CatalogueOperation `json:"operations"`
}

// CatalogueOperation is one thing that can be asked.
type CatalogueOperation struct {
	Name   string          `json:"name"`
	Path   string          `json:"path,omitempty"` // of the API, as a template
	Rights []string        `json:"rights,omitempty"`
	Format string          `json:"format,omitempty"` // of the body: json, csv, any
	Fresh  Duration        `json:"fresh,omitzero"`   // a cached body this young answers a request that gives no max_age
	Stale  Duration        `json:"stale,omitzero"`   // one this old may be shown while the provider cannot be asked
	Pages  bool            `json:"pages,omitempty"`  // answers tell how the next page is asked for
	Params json.RawMessage `json:"params"`           // JSON Schema of the parameters
}

// CatalogueSubject is where the fleet tells a provider's catalogue; of "*",
// which can be no provider's name, the providers that there are.
func CatalogueSubject(provider string) string { return "fetch.catalog." + provider }

// Catalogue asks the running fleet what can be asked of a provider. A
// *RequestError says that it knows no such provider; ErrNobodyServes, that no
// worker is there.
func (c *Client) Catalogue(ctx context.Context, provider string) (Catalogue, error) {
	var told Catalogue
	if !ValidToken(provider) {
		return told, &RequestError{"provider", "1 to 32 of a-z 0-9 _ -"}
	}
	return told, c.tell(ctx, provider, &told)
}

// Providers asks the running fleet which providers it knows.
func (c *Client) Providers(ctx context.Context) ([]string, error) {
	var told struct{ Providers []string }
	err := c.tell(ctx, "*", &told)
	return told.Providers, err
}

func (c *Client) tell(ctx context.Context, provider string, told any) error {
	m, err := c.ask(ctx, CatalogueSubject(provider), nil, orderSoon)
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return fmt.Errorf("catalogue: %w", ErrNobodyServes)
	case err != nil:
		return fmt.Errorf("catalogue: %w", err)
	case m.Header.Get(serviceErrorCode) != "":
		return fmt.Errorf("catalogue: %w", &RequestError{"provider", m.Header.Get(serviceError)})
	}
	if err := json.Unmarshal(m.Data, told); err != nil {
		return fmt.Errorf("catalogue: %w", err)
	}
	return nil
}
