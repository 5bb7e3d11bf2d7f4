package sweep

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// backlog answers what one agent has waiting beyond what it may, and what one
// agent or provider has beyond half of the stream, the newest first to go: the
// others' publishes must find room. What a single subject holds the stream
// itself bounds, at the publish; here are those who spread it over many.
func (s *Sweeper) backlog(ctx context.Context, requests jetstream.Stream) error {
	info := requests.CachedInfo()
	most, half := uint64(max(s.config.Backlog, 0)), uint64(max(info.Config.MaxBytes, 0)/2)
	if most == 0 || info.State.Msgs <= most && (half == 0 || info.State.Bytes <= half) {
		return nil
	}
	listing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	listed, err := wire.List(listing, s.js.Conn(), fetchworker.StreamRequests, "fetch.request.>")
	if err != nil {
		return fmt.Errorf("subjects of %s: %w", fetchworker.StreamRequests, err)
	}
	// Bytes are told for the whole only: one who fills it is about the mean.
	room := ^uint64(0)
	if state := listed; half > 0 && state.Msgs > 0 {
		room = half / max(state.Bytes/state.Msgs, 1)
	}
	agents, providers := map[string]uint64{}, map[string]uint64{}
	shares := map[[2]string]uint64{} // of a provider and an agent
	for subject, n := range listed.Subjects {
		if address, err := wire.ParseSubject(subject); err == nil {
			agents[address.Agent] += n
			providers[address.Provider] += n
			shares[[2]string{address.Provider, address.Agent}] += n
		}
	}
	var errs []error
	for agent, n := range agents {
		if allowed := min(most, room); n > allowed {
			errs = append(errs, s.beyond(ctx, "fetch.request.*.*.*.*."+agent, n-allowed,
				fmt.Sprintf("%s has %d requests waiting; this is one of the newest", agent, n)))
		}
	}
	if len(errs) > 0 {
		// What one agent had too much is mostly its provider's excess as well: who
		// else waits there is looked at when that is gone.
		s.more = true
		return errors.Join(errs...)
	}
	for provider, n := range providers {
		if n <= room {
			continue
		}
		filter, excess := "fetch.request."+provider+".>", n-room
		for of, share := range shares {
			if of[0] == provider && share > n/2 { // whose doing it is: the others' new ones are none of it
				filter, excess = "fetch.request."+provider+".*.*.*."+of[1], min(excess, share)
			}
		}
		errs = append(errs, s.beyond(ctx, filter, excess, fmt.Sprintf("what waits for %s takes half of the queue; this is one of the newest", provider)))
	}
	return errors.Join(errs...)
}

// beyond answers the newest so many messages of a filter.
func (s *Sweeper) beyond(ctx context.Context, filter string, excess uint64, detail string) error {
	const stream = fetchworker.StreamRequests
	edge, err := browse.New(s.js.Conn()).Edge(ctx, stream)
	if err != nil {
		return err
	}
	// Where they begin: the first sequence with no more than that behind it.
	from, to := uint64(1), edge.Sequence+1
	for from < to {
		middle := from + (to-from)/2
		n, err := s.log.Count(ctx, stream, filter, middle)
		if err != nil {
			return err
		}
		if n > excess {
			from = middle + 1
		} else {
			to = middle
		}
	}
	crew := newCrew(ctx)
	n := 0
	for raw, err := range browse.New(s.js.Conn()).MessagesFrom(ctx, stream, filter, from, edge) {
		if err != nil {
			crew.failed(err)
			break
		}
		if n++; n > backlogAPass {
			s.more = true
			break
		}
		crew.do(raw, func(ctx context.Context, raw record.Raw) error {
			return s.refuse(ctx, raw, fetchworker.CodeBacklogFull, detail)
		})
	}
	return crew.wait()
}

// backlogAPass bounds what one pass answers of one agent or provider.
const backlogAPass = 5000
