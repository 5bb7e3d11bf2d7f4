package fetchworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Catalogue is what can be asked of a provider, as the fleet tells it.
type Catalogue struct {
	Provider   string               `json:"provider"`
	Configured bool                 `json:"configured"` // whoever told it has a key for it
	Notice     string               `json:"notice,omitempty"`
	Operations []CatalogueOperation `json:"operations"`
	Now        *Standing            `json:"now,omitempty"` // how it stands; nil: told by a worker of an earlier version
}

// Standing is how a provider stands for the whole fleet: what is left, when
// more comes, and what holds its requests.
type Standing struct {
	At      time.Time    `json:"at"`                // the server's time
	Workers int          `json:"workers"`           // live ones that serve it
	Reason  Reason       `json:"reason,omitempty"`  // why its requests wait just now; empty: they do not
	RetryAt time.Time    `json:"retry_at,omitzero"` // until when, where that is known
	Limits  []WindowLeft `json:"limits,omitempty"`  // of the calls to it; none: unlimited, or no worker has served it yet
	NextAt  time.Time    `json:"next_at,omitzero"`  // when the next call of an interactive request may begin
	Open    []OpenCalls  `json:"open,omitempty"`    // operations that fail and are probed, while the rest goes on
	Bytes   *BytesLeft   `json:"bytes,omitempty"`   // of the month, where they are limited and whoever tells it serves the provider
}

// WindowLeft is one limit: so many calls in any span of so long.
type WindowLeft struct {
	Calls int      `json:"calls"`
	Per   Duration `json:"per"`
	Left  int      `json:"left"`            // that could be made now
	Group string   `json:"group,omitempty"` // of operations whose calls alone count in it, by its name or the operation's
}

// OpenCalls is an operation that fails for everybody and is probed.
type OpenCalls struct {
	Operation string    `json:"operation"` // of get with its path
	Until     time.Time `json:"until"`     // when the next probe is due
}

// BytesLeft is how much of the month's bytes is used.
type BytesLeft struct {
	Used  int64     `json:"used"`
	Limit int64     `json:"limit"`
	Ends  time.Time `json:"ends"` // the month
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

// catalogueSubject is where the fleet tells a provider's catalogue; of "*",
// which can be no provider's name, the providers that there are.
func catalogueSubject(provider string) string { return "fetch.catalog." + provider }

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
	m, err := c.ask(ctx, catalogueSubject(provider), nil, orderSoon)
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
