package broker

import "strings"

// Address says which server to join, as natscli says it.
type Address struct {
	URL     string // NATS_URL
	Creds   string // NATS_CREDS: path of a credentials file
	Context string // NATS_CONTEXT: name of a natscli context
	Name    string // of this connection, seen by operators
	Inbox   string // inbox prefix; permissions are given by it
}

// Remote reports whether a server to join is named at all.
func (a Address) Remote() bool { return a.URL != "" || a.Context != "" }

// String names the server for people, without password or token.
func (a Address) String() string {
	if a.URL == "" {
		return "the context " + a.Context
	}
	return a.Redacted()
}

const hidden = "xxxxx"

// Redacted is the list of URLs without passwords and tokens. It is not parsed
// as a URL is: a password may hold what ends an address (#, /, a comma), a URL
// may have no scheme, and none of it may be shown for that.
func (a Address) Redacted() string {
	servers := strings.Split(a.URL, ",")
	for i, text := range servers {
		text = strings.TrimSpace(text)
		scheme, rest, found := strings.Cut(text, "://")
		if !found {
			scheme, rest = "", text
		} else {
			scheme += "://"
		}
		at := strings.LastIndexByte(rest, '@')
		if at < 0 {
			servers[i] = scheme + hostPort(rest)
			continue
		}
		user, _, hasPassword := strings.Cut(rest[:at], ":")
		if hasPassword {
			user += ":" + hidden
		} else {
			user = hidden // a token stands where a user's name would
		}
		servers[i] = scheme + user + "@" + hostPort(rest[at+1:])
		// The comma before a server without a scheme may be part of a password.
		for before := i - 1; !found && before >= 0 && !strings.Contains(servers[before], "@"); before-- {
			servers[before] = hidden
		}
	}
	return strings.Join(servers, ",")
}

// hostPort is what of a server's address comes before a path.
func hostPort(s string) string {
	if i := strings.IndexAny(s, "/?#"); i >= 0 {
		return s[:i]
	}
	return s
}
