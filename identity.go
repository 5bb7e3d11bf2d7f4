package fetchworker

// Identity names one request for as long as its answer is kept. An id is an
// idempotency key within one provider, operation and agent.
type Identity struct {
	Provider  string
	Operation string
	Agent     string
	ID        string
}

// String writes the identity as "provider.operation.agent.id", which is also
// the Nats-Msg-Id that makes a repeated publish a duplicate.
func (i Identity) String() string { return i.under("") }

// under writes the identity behind a prefix, in one piece: the identity by
// itself and then both together are two.
func (i Identity) under(prefix string) string {
	return prefix + i.Provider + "." + i.Operation + "." + i.Agent + "." + i.ID
}

// ValidToken reports whether a provider, operation or agent name is
// [a-z0-9_-]{1,32}.
func ValidToken(s string) bool {
	return validWord(s, 32, func(c byte) bool { return isLower(c) || isDigit(c) || c == '_' || c == '-' })
}

// ValidID reports whether a request id is [A-Za-z0-9_-]{1,64}.
func ValidID(s string) bool {
	return validWord(s, 64, func(c byte) bool { return isLower(c) || isUpper(c) || isDigit(c) || c == '_' || c == '-' })
}

func validWord(s string, longest int, allowed func(byte) bool) bool {
	if s == "" || len(s) > longest {
		return false
	}
	for i := range len(s) {
		if !allowed(s[i]) {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
