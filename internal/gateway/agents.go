package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
)

const (
	// agentIdle is how long an agent's subscription stands after its last call.
	agentIdle = 5 * time.Minute
	// mostAgents are remembered at a time.
	mostAgents = 2048
)

// agents has a client for each agent who asks, on one connection: so each asks
// as itself, and has one subscription, however many calls it makes.
type agents struct {
	nc *nats.Conn

	mu     sync.Mutex
	closed bool
	byName map[string]*agent
	idling sync.WaitGroup // for the ends of idle ones
}

// agent is one who asks.
type agent struct {
	*fetchworker.Client
	feed *feed

	users int
	since time.Time // without users
	idle  *time.Timer
}

func newAgents(nc *nats.Conn) *agents {
	return &agents{nc: nc, byName: map[string]*agent{}}
}

var errTooManyAgents = errors.New("too many agents ask at the same time")

// use is an agent's client, until leave.
func (a *agents) use(name string) (one *agent, leave func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, nil, fetchworker.ErrClosed
	}
	one = a.byName[name]
	if one == nil {
		if len(a.byName) >= mostAgents && !a.forgetOne() {
			return nil, nil, errTooManyAgents
		}
		client, err := fetchworker.NewClient(a.nc, name)
		if err != nil {
			return nil, nil, fmt.Errorf("client of %s: %w", name, err)
		}
		one = &agent{Client: client.Lazily()}
		one.feed = newFeed(one.Client)
		a.byName[name] = one
	}
	if one.users++; one.idle != nil {
		if one.idle.Stop() {
			a.idling.Done()
		}
		one.idle = nil
	}
	return one, sync.OnceFunc(func() { a.left(name, one) }), nil
}

func (a *agents) left(name string, one *agent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if one.users--; one.users > 0 || a.closed {
		return
	}
	one.since = time.Now()
	a.idling.Add(1)
	one.idle = time.AfterFunc(agentIdle, func() {
		defer a.idling.Done()
		a.mu.Lock()
		defer a.mu.Unlock()
		if one.users == 0 && a.byName[name] == one && time.Since(one.since) >= agentIdle {
			a.forget(name, one)
		}
	})
}

// forgetOne forgets the agent that has been idle for longest.
func (a *agents) forgetOne() bool {
	oldest := ""
	for name, one := range a.byName {
		if one.users == 0 && (oldest == "" || one.since.Before(a.byName[oldest].since)) {
			oldest = name
		}
	}
	if oldest == "" {
		return false
	}
	one := a.byName[oldest]
	if one.idle != nil && one.idle.Stop() {
		a.idling.Done()
	}
	a.forget(oldest, one)
	return true
}

func (a *agents) forget(name string, one *agent) {
	delete(a.byName, name)
	one.feed.close()
	one.Close()
}

func (a *agents) close() {
	a.mu.Lock()
	a.closed = true
	for name, one := range a.byName {
		if one.idle != nil && one.idle.Stop() {
			a.idling.Done()
		}
		a.forget(name, one)
	}
	a.mu.Unlock()
	a.idling.Wait()
}

// while is ctx until the gateway stops as well.
func while(ctx, stopping context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(stopping, cancel)
	return ctx, func() { stop(); cancel() }
}
