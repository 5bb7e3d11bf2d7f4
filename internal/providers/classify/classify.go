package classify

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"fetchworker"
	"fetchworker/internal/providers/headers"
	"fetchworker/internal/providers/scan"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

const (
	maxDetail   = 400     // characters of a detail
	maxRuleText = 4 << 10 // bytes of a body that text rules look at

	maxErrorText = 64 << 10 // bytes of a member that a detail is made of
)

// ErrTooLarge is why a body was not read to its end: it is longer than 64 MiB.
var ErrTooLarge = errors.New("the body is longer than 64 MiB")

// Types of errors that a class does not tell, for metrics and for judging
// what a failure says about the provider.
const (
	// Foreign: something between us and the API answered in its place, a
	// firewall, a proxy, a load balancer.
	Foreign = "foreign"
	// Odd: the API answered, but not with what was asked for.
	Odd = "odd"
)

// foreignDetail begins the detail of every foreign answer.
const foreignDetail = "not in the provider's own words"

// Input is an answer as it came.
type Input struct {
	Format  sheet.Format // what the operation's body must be
	Columns []string     // of a csv: names that its header row must have
	Status  int
	Header  http.Header
	Body    []byte
	ReadErr error // what ended the reading of the body, if it did not end by itself
	Checked bool  // somebody has looked whether it is JSON, and found that it IsJSON or not
	IsJSON  bool
}

// Verdict is what an answer is.
type Verdict struct {
	Class     wire.Class
	Code      fetchworker.Code // for permanent
	ErrorType string           // the class, or foreign or odd; "" for ok
	Detail    string           // not yet redacted or shortened
	Why       string           // what decided it: a rule by its place, own, the status, the body
	MinHold   time.Duration
	NoCache   bool
}

// Answer decides what an answer is.
//
// A page that somebody put in the API's place says nothing of the API, so it
// is looked for first; then the sheet's rules are asked; then whether a
// refusal is in the API's own words; and only then the status decides.
func Answer(s *sheet.Spec, in Input) Verdict {
	v := answer(s, in)
	if v.Why == "" {
		v.Why = "no rule matches, so the status " + strconv.Itoa(in.Status) + " decides"
	}
	if v.ErrorType == "" && v.Class != wire.ClassOK {
		v.ErrorType = string(v.Class)
	}
	return v
}

func answer(s *sheet.Spec, in Input) Verdict {
	v := ofStatus(in.Status, in.Header)
	success := in.Status/100 == 2
	if success && in.ReadErr != nil {
		if errors.Is(in.ReadErr, ErrTooLarge) {
			return Verdict{Class: wire.ClassPermanent, Code: fetchworker.CodeResponseTooLarge, Detail: ErrTooLarge.Error()}
		}
		return odd("the body cannot be read: " + in.ReadErr.Error())
	}
	isJSON := in.IsJSON
	if !in.Checked {
		isJSON = scan.Valid(in.Body)
	}
	at := scan.Finds(in.Body, isJSON)
	// Looked for in every good body, it was a tenth of a call's CPU.
	said := func() string { return errorText(s, in.Body, at) }
	isPage := page(in.Header.Get("Content-Type"), in.Body, isJSON)
	if isForeign(s, in, v, isPage, at) {
		return foreign(in.Status, said(), isPage)
	}

	ruled, hint := false, ""
	for i := range s.ErrorRules {
		rule := &s.ErrorRules[i]
		if !matches(rule, in, at) {
			continue
		}
		ruled = true
		v = Verdict{Class: rule.Class, Code: rule.Code, MinHold: rule.MinHold, NoCache: rule.NoCache, Why: fmt.Sprintf("errors.%d matches", i)}
		if rule.Hint != "" {
			hint = " (" + rule.Hint + ")"
		}
		break
	}
	if v.Class != wire.ClassOK {
		said := strings.TrimSpace(said() + hint)
		v.Detail = fmt.Sprintf("status %d: %s", in.Status, said)
		if said == "" {
			v.Detail = strings.TrimSpace(fmt.Sprintf("status %d %s", in.Status, http.StatusText(in.Status)))
		}
		return v
	}
	if ruled && in.Status == http.StatusNoContent {
		return v // the sheet says that nothing is an answer
	}
	if wrong := unreadable(in, isJSON); wrong != "" {
		return odd(fmt.Sprintf("status %d, but the body is %s", in.Status, wrong))
	}
	v.NoCache = v.NoCache || in.Status == http.StatusAccepted
	return v
}

func odd(detail string) Verdict {
	return Verdict{Class: wire.ClassTransient, ErrorType: Odd, Detail: detail, Why: "the body is not what the operation's format says"}
}

// isForeign reports whether somebody between us and the API said it. Whoever
// asks us to come back later is believed, whoever it is.
func isForeign(s *sheet.Spec, in Input, v Verdict, isPage bool, at scan.Finder) bool {
	switch {
	case in.Status == http.StatusProxyAuthRequired:
		return true
	case v.Class == wire.ClassThrottled, in.Status/100 == 3:
		return false
	case isPage:
		return true
	case in.Status/100 != 4, in.Status == http.StatusUnauthorized, in.Status == http.StatusRequestTimeout, in.Status == http.StatusPreconditionFailed:
		return false
	}
	return len(s.Own) > 0 && !slices.ContainsFunc(s.Own, func(own sheet.Rule) bool {
		return matches(&own, in, at)
	})
}

func foreign(status int, said string, isPage bool) Verdict {
	why := "no rule of own matches"
	switch {
	case status == http.StatusProxyAuthRequired:
		why = "407 comes from a proxy"
	case isPage:
		said, why = "an HTML page", "an API sends no pages"
	case said == "":
		said = http.StatusText(status)
	}
	return Verdict{
		Class: wire.ClassTransient, ErrorType: Foreign, Why: why,
		Detail: strings.TrimSuffix(fmt.Sprintf("%s: status %d: %s", foreignDetail, status, said), ": "),
	}
}

// ofStatus is what a status means where no rule knows better. Every status
// has a meaning; one that nobody foresaw is transient, which is bounded,
// except for a 4xx, where the API says that asking was wrong.
func ofStatus(status int, header http.Header) Verdict {
	permanent := func(code fetchworker.Code) Verdict {
		return Verdict{Class: wire.ClassPermanent, Code: code}
	}
	switch status {
	case http.StatusUnauthorized:
		return Verdict{Class: wire.ClassUnauthorized}
	case http.StatusPaymentRequired, http.StatusForbidden:
		return permanent(fetchworker.CodeNotEntitled)
	case http.StatusNotFound:
		return permanent(fetchworker.CodeNotFound)
	case http.StatusTooManyRequests, statusOverloaded:
		return Verdict{Class: wire.ClassThrottled}
	case http.StatusServiceUnavailable:
		if _, asked := headers.RetryAfter(header, time.Time{}); asked {
			return Verdict{Class: wire.ClassThrottled}
		}
		return Verdict{Class: wire.ClassTransient}
	case http.StatusRequestTimeout, http.StatusMisdirectedRequest, http.StatusLocked, http.StatusTooEarly:
		return Verdict{Class: wire.ClassTransient}
	// A job that is not done yet, nothing, a part, and the refusal of a
	// condition: none was asked for.
	case http.StatusAccepted, http.StatusNoContent, http.StatusPartialContent, http.StatusPreconditionFailed:
		return Verdict{Class: wire.ClassTransient, ErrorType: Odd}
	}
	switch status / 100 {
	case 2:
		return Verdict{Class: wire.ClassOK}
	case 3: // redirects are not followed, and nothing else was asked for
		return Verdict{Class: wire.ClassTransient, ErrorType: Odd}
	case 4:
		return permanent(fetchworker.CodeRejected)
	}
	return Verdict{Class: wire.ClassTransient}
}

// statusOverloaded is "site is overloaded", which some APIs send.
const statusOverloaded = 529

// matches reports whether the answer is of the rule's kind.
func matches(r *sheet.Rule, in Input, at scan.Finder) bool {
	if len(r.Status) > 0 && !slices.Contains(r.Status, in.Status) && !slices.Contains(r.Status, in.Status/100) {
		return false
	}
	for name, wanted := range r.Header {
		values := in.Header.Values(name)
		if len(values) == 0 || wanted != "" && !isOrHolds(strings.Join(values, ", "), wanted) {
			return false
		}
	}
	if len(r.At) == 0 {
		return true
	}
	return slices.ContainsFunc(r.At, func(pointer string) bool {
		if pointer == "" {
			return matchesText(r, strings.ToLower(bodyText(in.Body)))
		}
		value, ok := at(pointer)
		return ok && matchesText(r, strings.ToLower(scan.Text(value[:min(len(value), maxRuleText)])))
	})
}

// isOrHolds reports whether a header is a text, or has it among its words: a 0
// is not in 10.
func isOrHolds(value, wanted string) bool {
	return strings.EqualFold(value, wanted) || slices.ContainsFunc(strings.FieldsFunc(value, func(r rune) bool {
		return r == ',' || r == ';' || unicode.IsSpace(r)
	}), func(word string) bool { return strings.EqualFold(word, wanted) })
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

var (
	htmlStart = regexp.MustCompile(`(?i)^<(!doctype\s+html|html|head|body|title|center|h1)[\s>/]`)
	// What may stand before the first tag: an XML declaration, comments, and
	// instructions for style sheets.
	prolog = regexp.MustCompile(`^(\s|\x{FEFF}|(?s:<\?.*?\?>)|(?s:<!--.*?-->))+`)
)

// page reports whether a body is an HTML or XHTML page, whatever its type
// says. An API sends none; what stands in its way does.
func page(contentType string, body []byte, isJSON bool) bool {
	if isJSON {
		return false
	}
	start := body[:min(len(body), maxRuleText)]
	start = start[len(prolog.Find(start)):]
	if htmlStart.Match(start) {
		return true
	}
	media, _, _ := mime.ParseMediaType(contentType) // "" for one that cannot be parsed
	return (media == "text/html" || media == "application/xhtml+xml") && bytes.HasPrefix(start, []byte("<"))
}
