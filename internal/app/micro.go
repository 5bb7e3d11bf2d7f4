package app

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// Instance is what a process tells of itself as one of a fleet.
type Instance struct {
	Service     string // shared by the fleet
	Description string
	Version     string            // of the build
	Metadata    map[string]string // shown by `nats micro info`
	State       func() any        // told as JSON by `nats micro stats` and to a request on StateSubject
	Endpoints   []Endpoint
}

// Endpoint is a subject where one instance of the fleet answers each request.
// Its handler must return at once.
type Endpoint struct {
	Name, Subject string
	Handle        func(micro.Request)
}

// queue is the group that shares an endpoint's requests.
const queue = "q"

// StateSubject asks every instance for its state: nats req --replies=0 fetch.state ”.
const StateSubject = "fetch.state"

// Announce makes the process an instance of a NATS micro service, so that
// `nats micro ls`, `info` and `stats` show the fleet with no registry of its
// own. stop takes it off the list.
func Announce(nc *nats.Conn, i Instance) (stop func() error, err error) {
	service, err := micro.AddService(nc, micro.Config{
		Name: i.Service, Version: semantic(i.Version), Description: i.Description, Metadata: i.Metadata,
		StatsHandler: func(*micro.Endpoint) any { return i.State() },
		// Every instance answers: each has a state of its own.
		QueueGroupDisabled: true,
	})
	if err != nil {
		return nil, fmt.Errorf("announce %s: %w", i.Service, err)
	}
	state := micro.HandlerFunc(func(r micro.Request) { _ = r.RespondJSON(i.State()) }) // whoever asked is gone then
	if err := service.AddEndpoint("state", state, micro.WithEndpointSubject(StateSubject)); err != nil {
		return nil, errors.Join(fmt.Errorf("announce %s: %w", i.Service, err), service.Stop())
	}
	for _, e := range i.Endpoints {
		err := service.AddEndpoint(e.Name, micro.HandlerFunc(e.Handle), micro.WithEndpointSubject(e.Subject), micro.WithEndpointQueueGroup(queue))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("announce %s: endpoint %s: %w", i.Service, e.Name, err), service.Stop())
		}
	}
	return service.Stop, nil
}

var version = regexp.MustCompile(`^\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?$`)

// semantic is a version in the form that the micro protocol asks for.
func semantic(v string) string {
	v = strings.TrimPrefix(v, "v")
	if version.MatchString(v) {
		return v
	}
	return "0.0.0-" + regexp.MustCompile(`[^0-9A-Za-z-]+`).ReplaceAllString(v, "-")
}
