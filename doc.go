// Package fetchworker is the wire format of fetchworker and the client that
// agents link: publish a fetch, get exactly one final answer, inside every
// quota, through every outage.
//
// A request is published on a JetStream subject that names the provider, the
// lane, the operation and the agent; its answer is the one message kept under
// the matching result subject. This package knows subjects, headers, bodies
// and codes, and nothing of how a worker does its work. It imports nothing
// internal, so an agent that links it links little more than nats.go.
package fetchworker
