// Package dial says where a NATS server is, and shows it without its
// secrets.
package dial

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/natscontext"
)

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

// Dial connects once. Its errors show no secret of an address that Check lets
// pass.
func (a Address) Dial(options []nats.Option) (*nats.Conn, error) {
	if a.Creds != "" { // before what ends a Check
		options = append([]nats.Option{nats.UserCredentials(a.Creds)}, options...)
	}
	if a.URL == "" {
		nc, _, err := natscontext.Connect(a.Context, options...)
		return nc, err
	}
	return nats.Connect(a.URL, options...)
}

// ErrAddress says that there can be no server where one was named, whatever is
// waited for: a mistake of the configuration.
var ErrAddress = errors.New("no address of a server")

var errRead = errors.New("read")

// Check refuses what can be no server's address, before anything is dialled: the
// options end what would connect as soon as they have seen the servers.
func (a Address) Check(options []nats.Option) error {
	var servers []string
	_, err := a.Dial(append(slices.Clip(options), func(o *nats.Options) error {
		servers = append(o.Servers, o.Url)
		return errRead
	}))
	if !errors.Is(err, errRead) { // a context or credentials that there are not, or files that a context names
		return fmt.Errorf("%w: %s: %w", ErrAddress, a, err)
	}
	var web, all int
	for _, server := range servers {
		if server == "" {
			continue
		}
		all++
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		u, err := url.Parse(server)
		if err != nil || strings.Contains(u.Path+u.RawQuery+u.Fragment, "@") { // a password's slash, and what is before it would be looked up as a host
			return fmt.Errorf("%w: the address %s cannot be read: write it as nats://user:password@host:4222, with special characters of user and password percent-encoded", ErrAddress, a) // the error itself holds the password
		}
		switch u.Scheme {
		case "nats", "tls":
		case "ws", "wss":
			web++
		default:
			return fmt.Errorf("%w: the address %s: nats://, tls://, ws:// or wss:// is expected", ErrAddress, a)
		}
	}
	if web > 0 && web < all {
		return fmt.Errorf("%w: the address %s: ws:// or wss:// is for all of them or none", ErrAddress, a)
	}
	return nil
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
