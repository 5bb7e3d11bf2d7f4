package classify

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
	"fetchworker/internal/providers/scan"
	"fetchworker/internal/providers/sheet"
)

const (
	maxDetail   = 400     // characters of a detail
	maxRuleText = 4 << 10 // bytes of a body that text rules look at

	maxErrorText = 64 << 10 // bytes of a member that a detail is made of
)

// ErrTooLarge is why a body was not read to its end: it is longer than 64 MiB.
var ErrTooLarge = errors.New("the body is longer than 64 MiB")

// Verdict is what an answer is.
type Verdict struct {
	Class   fetchworker.Class
	Code    fetchworker.Code
	Detail  string // not yet redacted or shortened
	MinHold time.Duration
	NoCache bool
}

// Answer decides what an answer is. readErr is what ended the reading of
// the body, if it did not end by itself.
func Answer(s *sheet.Spec, format sheet.Format, status int, contentType string, body []byte, readErr error) Verdict {
	v := ofStatus(status)
	if v.Class == fetchworker.ClassOK && readErr != nil {
		if errors.Is(readErr, ErrTooLarge) {
			return Verdict{Class: fetchworker.ClassPermanent, Code: fetchworker.CodeResponseTooLarge, Detail: ErrTooLarge.Error()}
		}
		return Verdict{Class: fetchworker.ClassTransient, Detail: "the body cannot be read: " + readErr.Error()}
	}

	isJSON := json.Valid(body)
	at := scan.Finds(body, isJSON)
	said := errorText(s, body, at)
	for _, rule := range s.ErrorRules {
		if !matches(&rule, status, body, at) {
			continue
		}
		v = Verdict{Class: rule.Class, Code: rule.Code, MinHold: rule.MinHold, NoCache: rule.NoCache}
		if rule.Hint != "" {
			said = strings.TrimSpace(said + " (" + rule.Hint + ")")
		}
		break
	}
	if v.Class != fetchworker.ClassOK {
		v.Detail = fmt.Sprintf("status %d: %s", status, said)
		if said == "" {
			v.Detail = strings.TrimSpace(fmt.Sprintf("status %d %s", status, http.StatusText(status)))
		}
		return v
	}
	if wrong := unreadable(format, contentType, body, isJSON); wrong != "" {
		return Verdict{Class: fetchworker.ClassTransient, Detail: fmt.Sprintf("status %d, but the body is %s", status, wrong)}
	}
	return v
}

// ofStatus is what a status means where no rule knows better. Every
// status has a meaning; one that nobody foresaw is transient, which is
// bounded, except for a 4xx, where the API says that asking was wrong.
func ofStatus(status int) Verdict {
	permanent := func(code fetchworker.Code) Verdict {
		return Verdict{Class: fetchworker.ClassPermanent, Code: code}
	}
	switch {
	case status == http.StatusUnauthorized:
		return Verdict{Class: fetchworker.ClassUnauthorized}
	case status == http.StatusPaymentRequired, status == http.StatusForbidden:
		return permanent(fetchworker.CodeNotEntitled)
	case status == http.StatusNotFound:
		return permanent(fetchworker.CodeNotFound)
	case status == http.StatusRequestTimeout:
		return Verdict{Class: fetchworker.ClassTransient}
	case status == http.StatusTooManyRequests:
		return Verdict{Class: fetchworker.ClassThrottled}
	case status >= 400 && status < 500:
		return permanent(fetchworker.CodeRejected)
	case status == http.StatusPartialContent: // a part that nobody asked for
		return Verdict{Class: fetchworker.ClassTransient}
	case status >= 200 && status < 300:
		return Verdict{Class: fetchworker.ClassOK}
	}
	return Verdict{Class: fetchworker.ClassTransient}
}

// matches reports whether the answer is of the rule's kind.
func matches(r *sheet.Rule, status int, body []byte, at scan.Finder) bool {
	if len(r.Status) > 0 && !slices.Contains(r.Status, status) && !slices.Contains(r.Status, status/100) {
		return false
	}
	if len(r.At) == 0 {
		return true
	}
	return slices.ContainsFunc(r.At, func(pointer string) bool {
		if pointer == "" {
			return matchesText(r, strings.ToLower(bodyText(body)))
		}
		value, ok := at(pointer)
		return ok && matchesText(r, strings.ToLower(scan.Text(value[:min(len(value), maxRuleText)])))
	})
}

func matchesText(r *sheet.Rule, text string) bool {
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
func errorText(s *sheet.Spec, body []byte, at scan.Finder) string {
	for _, pointer := range s.ErrorText {
		if value, ok := at(pointer); ok {
			return scan.Text(value[:min(len(value), maxErrorText)])
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
func unreadable(format sheet.Format, contentType string, body []byte, isJSON bool) string {
	media, _, _ := mime.ParseMediaType(contentType) // "" for one that cannot be parsed
	text := bodyText(body)
	starts := func(prefixes string) bool { return text != "" && strings.ContainsAny(text[:1], prefixes) }
	switch {
	case text == "":
		return "empty"
	case htmlStart.MatchString(text), media == "text/html" && !isJSON:
		return "an HTML page"
	case isJSON && (bytes.HasPrefix(scan.TrimSpace(body), []byte("{")) || bytes.HasPrefix(scan.TrimSpace(body), []byte("["))):
		if format == sheet.FormatCSV {
			return "JSON where a table was expected"
		}
		return ""
	case format == sheet.FormatCSV:
		if starts("{[<") || !isTable(text) {
			return "not a table"
		}
		return ""
	case format == sheet.FormatAny && !starts("{[") && (isOtherMedia(media) || media == "text/plain" && isTable(text)):
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
