package providers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"fetchworker"
)

const (
	maxDetail   = 400     // characters of a detail
	maxRuleText = 4 << 10 // bytes of a body that text rules look at

	maxErrorText = 64 << 10 // bytes of a member that a detail is made of
)

// verdict is what an answer is. It is decided in one place, by status and
// body together: these APIs report errors with status 200, and a missing key
// with status 400.
type verdict struct {
	class   fetchworker.Class
	code    fetchworker.Code
	detail  string // not yet redacted or shortened
	minHold time.Duration
	noCache bool
}

// classify decides what an answer is. readErr is what ended the reading of
// the body, if it did not end by itself.
func (s *Spec) classify(format Format, status int, contentType string, body []byte, readErr error) verdict {
	v := statusVerdict(status)
	if v.class == fetchworker.ClassOK && readErr != nil {
		if errors.Is(readErr, ErrTooLarge) {
			return verdict{class: fetchworker.ClassPermanent, code: fetchworker.CodeResponseTooLarge, detail: ErrTooLarge.Error()}
		}
		return verdict{class: fetchworker.ClassTransient, detail: "the body cannot be read: " + readErr.Error()}
	}

	isJSON := json.Valid(body)
	at := lookups(body, isJSON)
	said := s.errorText(body, at)
	for _, rule := range s.ErrorRules {
		if !rule.matches(status, body, at) {
			continue
		}
		v = verdict{class: rule.Class, code: rule.Code, minHold: rule.MinHold, noCache: rule.NoCache}
		if rule.Hint != "" {
			said = strings.TrimSpace(said + " (" + rule.Hint + ")")
		}
		break
	}
	if v.class != fetchworker.ClassOK {
		v.detail = fmt.Sprintf("status %d: %s", status, said)
		if said == "" {
			v.detail = strings.TrimSpace(fmt.Sprintf("status %d %s", status, http.StatusText(status)))
		}
		return v
	}
	if wrong := unreadable(format, contentType, body, isJSON); wrong != "" {
		return verdict{class: fetchworker.ClassTransient, detail: fmt.Sprintf("status %d, but the body is %s", status, wrong)}
	}
	return v
}

// statusVerdict is what a status means where no rule knows better. Every
// status has a meaning; one that nobody foresaw is transient, which is
// bounded, except for a 4xx, where the API says that asking was wrong.
func statusVerdict(status int) verdict {
	permanent := func(code fetchworker.Code) verdict {
		return verdict{class: fetchworker.ClassPermanent, code: code}
	}
	switch {
	case status == http.StatusUnauthorized:
		return verdict{class: fetchworker.ClassUnauthorized}
	case status == http.StatusPaymentRequired, status == http.StatusForbidden:
		return permanent(fetchworker.CodeNotEntitled)
	case status == http.StatusNotFound:
		return permanent(fetchworker.CodeNotFound)
	case status == http.StatusRequestTimeout:
		return verdict{class: fetchworker.ClassTransient}
	case status == http.StatusTooManyRequests:
		return verdict{class: fetchworker.ClassThrottled}
	case status >= 400 && status < 500:
		return permanent(fetchworker.CodeRejected)
	case status == http.StatusPartialContent: // a part that nobody asked for
		return verdict{class: fetchworker.ClassTransient}
	case status >= 200 && status < 300:
		return verdict{class: fetchworker.ClassOK}
	}
	return verdict{class: fetchworker.ClassTransient}
}

// matches reports whether the answer is of the rule's kind.
func (r *Rule) matches(status int, body []byte, at lookupFunc) bool {
	if len(r.Status) > 0 && !slices.Contains(r.Status, status) && !slices.Contains(r.Status, status/100) {
		return false
	}
	if len(r.At) == 0 {
		return true
	}
	return slices.ContainsFunc(r.At, func(pointer string) bool {
		if pointer == "" {
			return r.matchesText(strings.ToLower(bodyText(body)))
		}
		value, ok := at(pointer)
		return ok && r.matchesText(strings.ToLower(textOf(value[:min(len(value), maxRuleText)])))
	})
}

func (r *Rule) matchesText(text string) bool {
	has := func(wanted []string, test func(text, wanted string) bool) bool {
		return len(wanted) == 0 || slices.ContainsFunc(wanted, func(w string) bool { return test(text, strings.ToLower(w)) })
	}
	equal := func(text, wanted string) bool { return text == wanted }
	return has(r.Equals, equal) && has(r.Prefix, strings.HasPrefix) && has(r.Contains, strings.Contains)
}

// bodyText is the start of a body as text, without the quotes that make a
// bare text JSON.
func bodyText(body []byte) string {
	text := strings.TrimSpace(string(body[:min(len(body), maxRuleText)]))
	return strings.TrimSuffix(strings.TrimPrefix(text, `"`), `"`)
}

var xmlMessage = regexp.MustCompile(`(?i)message\s*=\s*"([^"]*)"`)

// errorText is what the API says in an error's body: a member of a JSON
// object, the message of an XML element, or a plain text.
func (s *Spec) errorText(body []byte, at lookupFunc) string {
	for _, pointer := range s.ErrorText {
		if value, ok := at(pointer); ok {
			return textOf(value[:min(len(value), maxErrorText)])
		}
	}
	text := bodyText(body)
	if found := xmlMessage.FindStringSubmatch(text); found != nil {
		return found[1]
	}
	if strings.HasPrefix(text, "<") || strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
		return ""
	}
	return text
}

var htmlStart = regexp.MustCompile(`(?i)^(<!doctype html|<html|<head|<body)`)

// unreadable says why the body of a success is not an answer; "" if it is.
func unreadable(format Format, contentType string, body []byte, isJSON bool) string {
	media, _, _ := mime.ParseMediaType(contentType) // "" for one that cannot be parsed
	text := bodyText(body)
	starts := func(prefixes string) bool { return text != "" && strings.ContainsAny(text[:1], prefixes) }
	switch {
	case text == "":
		return "empty"
	case htmlStart.MatchString(text), media == "text/html" && !isJSON:
		return "an HTML page"
	case isJSON && (bytes.HasPrefix(trimSpace(body), []byte("{")) || bytes.HasPrefix(trimSpace(body), []byte("["))):
		if format == FormatCSV {
			return "JSON where a table was expected"
		}
		return ""
	case format == FormatCSV:
		if starts("{[<") || !isTable(text) {
			return "not a table"
		}
		return ""
	case format == FormatAny && !starts("{[") && (isOtherMedia(media) || media == "text/plain" && isTable(text)):
		return ""
	}
	return "not a JSON object or array"
}

// isOtherMedia reports whether a Content-Type promises something else than
// JSON that an API may well send.
func isOtherMedia(media string) bool {
	switch media {
	case "text/csv", "application/csv", "text/tab-separated-values", "text/xml", "application/xml", "application/octet-stream":
		return true
	}
	return strings.HasSuffix(media, "+xml")
}

// isTable reports whether a text is lines of separated values: an error in
// plain words has no second line, or no separator in its first.
func isTable(text string) bool {
	header, rows, more := strings.Cut(text, "\n")
	return strings.ContainsAny(header, ",;\t") && (more && rows != "" || strings.Contains(header, `","`))
}
