package fetchworker

import "strings"

// The streams that an agent has to do with.
const (
	StreamRequests = "FETCH_REQUESTS"
	StreamResults  = "FETCH_RESULTS"
	StreamEvents   = "FETCH_EVENTS"
	StreamBodies   = "FETCH_BODIES"
)

// RequestSubject is where an agent publishes a request.
func RequestSubject(provider string, lane Lane, operation, agent string) string {
	return "fetch.request." + provider + "." + string(lane) + "." + operation + "." + agent
}

// ResultSubject is where the answer of a request is stored and seen live.
func ResultSubject(i Identity) string { return i.under("fetch.result.") }

// cancelSubject is where an agent's orders to cancel are taken, by request.
func cancelSubject(provider, agent string) string { return "fetch.cancel." + provider + "." + agent }

// replyPrefix is what every reply subject of an agent begins with.
func replyPrefix(agent string) string { return "fetch.reply." + agent + "." }

// resultOf reads the identity from the subject of an answer.
func resultOf(subject string) (i Identity, ok bool) {
	const tokens = 6
	t := strings.Split(subject, ".")
	if len(t) != tokens || t[0] != "fetch" || t[1] != "result" && t[1] != "put" {
		return Identity{}, false
	}
	for i := range len(subject) {
		if subject[i] <= ' ' || subject[i] > '~' {
			return Identity{}, false // nobody of ours writes one
		}
	}
	return Identity{t[2], t[3], t[4], t[5]}, true
}
