// Package fetchworker is the wire format of fetchworker and the client that
// agents link: publish a fetch, get exactly one final answer, inside every
// quota, through every outage.
//
// A request is published on a JetStream subject that names the provider, the
// lane, the operation and the agent; its answer is the one message kept under
// the matching result subject. This package knows subjects, headers, bodies
// and codes, and nothing of how a worker does its work. It imports nothing
// internal, so an agent that links it links little more than nats.go.
//
// An agent begins with [Connect], [Client.Fetch], [Request] and [Answer]; many
// requests go by [Client.FetchAll], one that may take long by [Client.Submit]
// and [Client.Wait], and what waits says why in a [PendingError]. What came to
// nothing is a [Problem] with its [Code], what waits has a [Reason]. Who
// listens to answers and events of many agents has a [Subscriber]. All else is
// for clients that are made of less: subjects, streams, and how requests and
// answers are read and written.
package fetchworker
