package wire

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// listLasts is how long a page of a listing is waited for where the caller has
// no deadline.
const listLasts = 5 * time.Second

// List is a stream's state with its messages counted by subject, of a filter.
//
// The client library's own goes on from as many subjects as it has: bytes that
// are no UTF-8 come as U+FFFD, so that two of an agent's subjects may be one in
// the list, and it would ask for the rest of it for ever.
func List(ctx context.Context, nc *nats.Conn, stream, filter string) (jetstream.StreamState, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, listLasts)
		defer cancel()
	}
	all := map[string]uint64{}
	for offset := 0; ; {
		request, err := json.Marshal(struct {
			Filter string `json:"subjects_filter"`
			Offset int    `json:"offset"`
		}{filter, offset})
		if err != nil {
			return jetstream.StreamState{}, fmt.Errorf("list %s: %w", stream, err)
		}
		m, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+stream, request)
		if err != nil {
			return jetstream.StreamState{}, fmt.Errorf("list %s: %w", stream, err)
		}
		var page struct {
			Error *jetstream.APIError   `json:"error"`
			Total int                   `json:"total"`
			Limit int                   `json:"limit"`
			State jetstream.StreamState `json:"state"`
		}
		if err := json.Unmarshal(m.Data, &page); err != nil {
			return jetstream.StreamState{}, fmt.Errorf("list %s: %w", stream, err)
		}
		if page.Error != nil {
			return jetstream.StreamState{}, fmt.Errorf("list %s: %w", stream, page.Error)
		}
		for subject, messages := range page.State.Subjects {
			all[subject] = messages
		}
		offset += page.Limit
		if page.Limit <= 0 || offset >= page.Total {
			page.State.Subjects = all
			return page.State, nil
		}
	}
}
