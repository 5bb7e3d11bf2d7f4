package providertest

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"fetchworker/internal/providers/call"
	"fetchworker/testdata"
)

// Step is how one call is answered.
type Step struct {
	Status  int // 0 takes status, header and body from the recording
	Header  http.Header
	Body    []byte
	Raw     bool          // Body is sent as it is, even if Header says gzip
	Latency time.Duration // before the answer
	Cut     int           // break the connection after so many bytes of the body; negative: before the status
}

// Answer is the step that plays an exchange.
func Answer(e *call.Exchange) Step {
	return Step{Status: e.Status, Header: e.Header.Clone(), Body: e.Body}
}

// JSON is a step that answers with a status and a JSON body.
func JSON(status int, body string) Step {
	return Step{Status: status, Header: jsonType(), Body: []byte(body)}
}

func jsonType() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// Script adds steps for the next calls, one each. After the last one the
// server answers by its exchanges again.
func (s *Server) Script(steps ...Step) { s.with(func() { s.script = append(s.script, steps...) }) }

// Named is the step that plays the exchange of that name. It panics if there
// is none: the name is a constant of the caller's.
func (s *Server) Named(name string) Step { return s.named(name) }

func (s *Server) named(name string) Step {
	for _, e := range s.exchanges {
		if e.Name == name {
			return Answer(e)
		}
	}
	panic(fmt.Sprintf("providertest: no exchange named %q", name))
}

// Call is one call as it arrived.
type Call struct {
	At        time.Time
	Method    string
	Sent      []byte // the body of a POST
	Target    string // path and query in a canonical order, without the key
	RawTarget string // as it came, with the key if it was in the query
	Header    http.Header
	Status    int // of the answer; 0 when the connection was broken instead
}

// Calls are all calls received, in order.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Forget empties the list of calls.
func (s *Server) Forget() { s.with(func() { s.calls = nil }) }

// MaxIn is the most calls that arrived in any span of the given length. This
// is what a provider with that window counts.
func (s *Server) MaxIn(window time.Duration) int {
	calls := s.Calls()
	most, first := 0, 0
	for i, call := range calls {
		for call.At.Sub(calls[first].At) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func (s *Server) answered(index, status int) {
	s.with(func() {
		if index < len(s.calls) { // else forgotten meanwhile
			s.calls[index].Status = status
		}
	})
}

// Exchanges are the recorded exchanges of a built-in provider.
func Exchanges(provider string) ([]*call.Exchange, error) { return ExchangesIn(testdata.FS, provider) }

// ExchangesIn are the recorded exchanges of a folder.
func ExchangesIn(files fs.FS, folder string) ([]*call.Exchange, error) {
	names, err := fs.Glob(files, path.Join(folder, "*.http"))
	if err != nil {
		return nil, fmt.Errorf("recorded exchanges of %s: %w", folder, err)
	}
	var exchanges []*call.Exchange
	for _, file := range names {
		content, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, fmt.Errorf("recorded exchange %s: %w", file, err)
		}
		e, err := call.ParseExchange(strings.TrimSuffix(path.Base(file), ".http"), content)
		if err != nil {
			return nil, err
		}
		exchanges = append(exchanges, e)
	}
	return exchanges, nil
}

// canonical is a target without keys, its query in order.
func canonical(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return target
	}
	query := u.Query()
	for name := range query {
		switch strings.ToLower(name) {
		case "apikey", "api_key", "token":
			delete(query, name)
		}
	}
	u.RawQuery = query.Encode()
	return u.RequestURI()
}
