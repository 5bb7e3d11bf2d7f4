package wire

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"fetchworker"
)

// Address is what the stored subject of a request, a letter, a replayed
// letter or a review item says of it. The shard is -1 and the id empty where
// the subject does not carry one.
type Address struct {
	fetchworker.Identity
	Lane  fetchworker.Lane
	Shard int
}

// longestSubject is far more than any that keeps to the rules. What is longer
// could not be answered: the subject of its answer might not fit into what a
// NATS server takes. A request's own leaves room for the id that its answer
// and its dead letter add.
const (
	longestSubject = 512
	longestRequest = longestSubject - 80
)

// longestAddress is the most tokens that a subject of ours has.
const longestAddress = 7

// errSubject says that a subject is none that could be answered, or shown.
var errSubject = errors.New("the subject is none of ours")

// ParseSubject reads the stored subject of a request, a letter, a replayed
// letter, a review item or an answer. It is the one judge of names from
// outside: each token is printable ASCII, so that it can be a filter, a metric's
// label and a line on a terminal, and the whole is short enough to be
// answered. Whether a name is a valid one is for ValidToken.
func ParseSubject(subject string) (Address, error) {
	var room [longestAddress + 1]string // for the tokens, on the stack
	t := room[:0]
	for token := range strings.SplitSeq(subject, ".") {
		if t = append(t, token); len(t) > longestAddress {
			break // none of ours
		}
	}
	longest := longestSubject
	if len(t) > 1 && t[1] == "request" {
		longest = longestRequest
	}
	if len(t) < 2 || t[0] != "fetch" || len(subject) > longest || !printable(subject) {
		return Address{}, fmt.Errorf("subject %.100q: %w", subject, errSubject)
	}
	switch {
	case t[1] == "request" && len(t) == 7:
		shard, err := strconv.Atoi(t[4])
		if err != nil {
			return Address{}, fmt.Errorf("subject %q: shard: %w", subject, err)
		}
		return Address{fetchworker.Identity{Provider: t[2], Operation: t[5], Agent: t[6], ID: ""}, fetchworker.Lane(t[3]), shard}, nil
	case (t[1] == "dlq" || t[1] == "replay") && len(t) == 7:
		return Address{fetchworker.Identity{Provider: t[2], Operation: t[4], Agent: t[5], ID: t[6]}, fetchworker.Lane(t[3]), -1}, nil
	case (t[1] == "review" || t[1] == "result" || t[1] == "put") && len(t) == 6:
		return Address{fetchworker.Identity{Provider: t[2], Operation: t[3], Agent: t[4], ID: t[5]}, "", -1}, nil
	}
	return Address{}, fmt.Errorf("subject %.100q: %w", subject, errSubject)
}

// printable reports whether all of a subject is ASCII that can be seen.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// ResolveID is the id of a request: the body's own if it is valid, else the
// last dot-separated token of its Nats-Msg-Id if that is a valid id, else one
// made of its place in the queue.
func ResolveID(bodyID, msgID string, sequence uint64, stored time.Time) string {
	if fetchworker.ValidID(bodyID) {
		return bodyID
	}
	if token := msgID[strings.LastIndexByte(msgID, '.')+1:]; fetchworker.ValidID(token) {
		return token
	}
	return "seq-" + strconv.FormatUint(sequence, 10) + "-" + strconv.FormatInt(stored.Unix(), 10)
}

// Matches reports whether a subject is one of those that a filter names.
func Matches(filter, subject string) bool {
	for {
		want, filters, more := strings.Cut(filter, ".")
		if want == ">" {
			return subject != ""
		}
		token, rest, left := strings.Cut(subject, ".")
		if want != token && (want != "*" || token == "") {
			return false
		}
		if !more || !left {
			return more == left
		}
		filter, subject = filters, rest
	}
}
