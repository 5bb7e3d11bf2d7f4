package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// listLasts is how long a page of a listing is waited for where the caller has
// no deadline.
const listLasts = 5 * time.Second

// emptyLasts is how long it is waited for whether a stream is empty.
const emptyLasts = time.Second

// AllEmpty reports whether several streams hold nothing, which are asked at the
// same moment: so everybody on the way is woken once.
func AllEmpty(ctx context.Context, nc *nats.Conn, streams ...string) (bool, error) {
	empty, errs := make([]bool, len(streams)), make([]error, len(streams))
	var asking sync.WaitGroup
	for i, stream := range streams {
		asking.Go(func() { empty[i], errs[i] = Empty(ctx, nc, stream) })
	}
	asking.Wait()
	return !slices.Contains(empty, false), errors.Join(errs...)
}

// Empty reports whether a stream holds nothing. That is a small part of the
// work of telling its state, for the server and for whoever asks; but any copy of the stream may answer: only where there is one,
// which Alone tells, what has been stored is certain to be seen.
func Empty(ctx context.Context, nc *nats.Conn, stream string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, emptyLasts)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream, []byte(`{"seq":1,"next_by_subj":">"}`))
	if err != nil {
		return false, fmt.Errorf("is %s empty: %w", stream, err)
	}
	if m.Header.Get(jetstream.StreamHeader) != "" {
		return false, nil
	}
	if status := m.Header.Get("Status"); status != "404" {
		return false, fmt.Errorf("is %s empty: the server says %s %s", stream, status, m.Header.Get("Description"))
	}
	return true, nil
}

// Alone reports whether a server that is in no cluster keeps a stream or a
// consumer, so that no other can answer for it.
func Alone(c *jetstream.ClusterInfo) bool {
	return c == nil || c.Name == "" && len(c.Replicas) == 0
}

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
