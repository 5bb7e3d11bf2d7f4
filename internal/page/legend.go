package page

import (
	"net/http"
	"strings"
)

// legend are the words of the page that somebody new does not know, in the order
// in which they explain each other. Those of the glossary are its lines.
var legend = []struct {
	About string
	Words [][2]string
}{
	{"What waits, and where", [][2]string{
		{"letter", "a request that waits outside its queue, a dead letter, with its story: for its next call, or for what holds it; it goes by itself"},
		{"park", "wait because the provider cannot be called now; costs no try"},
		{"held", "of a letter: parked, and what it waits for has not ended: a pause, a circuit, a quota, no worker"},
		{"due", "of a letter: its wait is over"},
		{"review", "where a person decides"},
		{"backlog", "requests of a queue that nobody has taken yet"},
		{"lane", "which requests go first: interactive, then batch; what is replayed has a lane of its own"},
		{"generation", "how often a person has sent a request back to work"},
		{"group", "letters or items of one provider, class and error; its number chooses it"},
	}},
	{"What keeps a provider from being called", [][2]string{
		{"permit", "the right to make one call now"},
		{"window", "the length of time that a limit counts over"},
		{"pause", "an operator's order to call nobody"},
		{"hold", "a time in which a provider is not called, because it said so"},
		{"circuit", "whether a provider, an operation or an agent's calls of it are tried at all; open for what its failures have in common, half open while one probe is under way"},
		{"probe", "the one call that finds out whether a provider is back"},
		{"budget", "bytes that a provider may cost in a month"},
	}},
	{"What a person does", [][2]string{
		{"replay", "have letters go now instead of at their time"},
		{"requeue", "send an item of review back to work, as a new generation without failures"},
		{"discard", "end an item of review for good: its request fails"},
		{"resume", "end a pause, close a circuit, lift a hold, so that a provider is called again"},
		{"retire", "give a provider up: what waits for it and what is new fails, until a worker serves it again"},
		{"canary", "the first few of many, whose answers are waited for before the rest goes"},
		{"deadline", "the moment after which no call is made for a request"},
		{"act", "what a person did or had done: a pause, a replay, a cancel; the audit keeps each"},
		{"audit line", "who did what to which message, when and why"},
		{"event", "what happened by itself, or was ordered, told to whoever listens: a circuit opened, a budget at 70 %"},
	}},
	{"Answers and failures", [][2]string{
		{"call", "one request on the wire to a provider"},
		{"answer", "the one stored message that says how a request stands; final or not"},
		{"fresh, stale", "young enough to be an answer; older, accepted if asked for"},
		{"class", "what kind of failure it was, which decides what follows"},
		{"code", "the machine's word in a final failure"},
		{"poison", "a request that seems to kill workers"},
	}},
	{"Classes", [][2]string{
		{"transient", "the network, a timeout, HTTP 408 or 5xx, a body that cannot be read: tried again; transient-503 is one with HTTP 503"},
		{"throttled", "the provider asked to be called less: it waits, and that counts as no failure"},
		{"unauthorized", "the provider refuses the key: our fault, so it waits, and counts as no failure"},
		{"pending", "the provider still computes the answer: it is asked again"},
		{"permanent", "the provider will say the same again: answered so, and never tried again"},
		{"circuit_open, paused, quota", "parked, without a call, for that reason"},
		{"poison", "it has killed workers: a person decides"},
		{"expired", "it has existed for longer than any request may"},
		{"retries_exhausted", "the code of a request whose every try has failed"},
	}},
}

// meant is what a word means, for a title beside it; empty where the legend
// does not have it.
func meant(word string) string {
	for _, part := range legend {
		for _, w := range part.Words {
			if w[0] == word || strings.HasPrefix(w[0], word+", ") || strings.HasSuffix(w[0], ", "+word) {
				return w[1]
			}
		}
	}
	return ""
}

// legendView shows the legend.
func (s *Server) legendView(*http.Request) (view, error) {
	return view{Name: "words", Title: "Words", Nav: "words", Data: legend, Still: true}, nil
}
