package fetch

import (
	"context"
	"sync"
	"time"

	"fetchworker/internal/record"
	"fetchworker/internal/wire"
)

// raws bounds the bodies that are no JSON and lie in review for a person to
// look at: one agent's broken producer, or its malice, must not fill the store
// that everybody's exhausted work needs. Beyond the bound such a request is
// refused and no more. It is safe for concurrent use.
type raws struct {
	log *record.Log

	mu     sync.Mutex
	agents map[string]*rawCount
}

// rawCount is what an agent has in review and on its way there, as last looked
// at and with what this worker has sent since.
type rawCount struct {
	n      uint64
	looked time.Time
}

const (
	rawsMost   = 100
	rawsLooked = 10 * time.Second // how soon a full review is looked at again
	rawsAgents = 10_000           // remembered; beyond it the look begins anew
)

func newRaws(log *record.Log) *raws { return &raws{log: log, agents: map[string]*rawCount{}} }

// room takes one of an agent's places, if there is one left.
func (r *raws) room(ctx context.Context, agent string) (bool, error) {
	if room, known := r.take(agent, nil); known {
		return room, nil
	}
	// Nobody waits for another agent's count: the server is asked without the
	// lock. Who asks for the same agent at once counts the same, and the first
	// count is the one that all of them take their places of.
	lies, err := r.log.Count(ctx, wire.StreamReview, "fetch.review.*.*."+agent+".*", 1)
	if err != nil {
		return false, err
	}
	comes, err := r.log.Count(ctx, wire.StreamDLQ, "fetch.dlq.*.*.*."+agent+".*", 1)
	if err != nil {
		return false, err
	}
	room, _ := r.take(agent, &rawCount{n: lies + comes, looked: time.Now()})
	return room, nil
}

// take takes a place by what is known of an agent, or else by what was counted
// just now. known is false where neither says anything.
func (r *raws) take(agent string, counted *rawCount) (room, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.agents[agent]
	if c == nil || c.n >= rawsMost && time.Since(c.looked) >= rawsLooked {
		if counted == nil {
			return false, false
		}
		if len(r.agents) >= rawsAgents {
			clear(r.agents)
		}
		c = counted
		r.agents[agent] = c
	}
	if c.n >= rawsMost {
		return false, true
	}
	c.n++
	return true, true
}
