package sheet

import (
	"cmp"
	"errors"
	"net/url"
	"strings"
	"time"
)

// Get is the operation that every provider has besides its own: any path of
// its API.
const Get = "get"

// TimeoutOf is the time-out of an operation's calls.
func (s *Spec) TimeoutOf(op *Operation) time.Duration { return cmp.Or(op.Timeout, s.Timeout) }

// LongestTimeout is the longest that any call of the provider may take.
func (s *Spec) LongestTimeout() time.Duration {
	longest := s.Timeout
	for _, op := range s.Operations {
		longest = max(longest, op.Timeout)
	}
	return longest
}

// ParseBase accepts what a base URL may be and nothing that could carry a key
// or send one elsewhere.
func ParseBase(text string) (*url.URL, error) {
	base, err := url.Parse(strings.TrimRight(text, "/"))
	switch {
	case err != nil: // the text of a *url.Error repeats the URL
		return nil, errors.New("not a URL")
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return nil, errors.New("expected http://host/path or https://host/path")
	case base.User != nil, base.RawQuery != "", base.Fragment != "":
		return nil, errors.New("expected a URL without user, query and fragment")
	}
	return base, nil
}
