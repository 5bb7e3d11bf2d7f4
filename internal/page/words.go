package page

import (
	"fmt"
	"html/template"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/doctor"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"
	"fetchworker/internal/wire"
)

// longestName is how long a person's name may be, in characters.
const longestName = 60

// words are what templates can say.
func (s *Server) words() template.FuncMap {
	return template.FuncMap{
		"vis": func(text any) string { return terminal.Visible(fmt.Sprint(text)) }, "clip": terminal.Clip, "size": size, "num": num, "ago": ago, "clock": terminal.Clock,
		"stamp": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") },
		"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
		"share": share, "short": terminal.Short, "percent": percent, "lower": strings.ToLower, "plural": plural,
		"address": address, "when": when, "coming": coming, "parked": parked, "stopped": stopped, "cut": func(h []dlq.Attempt) bool { return len(h) >= dlq.HistoryKept }, "waitsFor": waitsFor, "bar": bar, "limitOf": limitOf, "with2": with2, "with3": with3, "cause": causeWords,
		"identity": func(a operate.Act) fetchworker.Identity {
			return fetchworker.Identity{Provider: a.Provider, Operation: a.Operation, Agent: a.Agent, ID: a.ID}
		},
		"field": func(v shown, f form, name, label string, size, most int, hint string) field {
			return field{v.Wrong, f, name, label, size, most, hint}
		},
		"text": func(b []byte) string { return string(b) }, "list": func(words ...string) []string { return words },
		"classes": wire.LetterClasses, "actions": operate.Actions, "remedy": s.remedy, "meant": meant, "lettersOf": lettersOf, "title": title,
		"fate":   func(of map[operate.Fate]int, fate string) int { return of[operate.Fate(fate)] },
		"has":    func(list []string, word string) bool { return slices.Contains(list, word) },
		"pretty": terminal.Printable, "trace": s.traceURL, "add": func(a, b int) int { return a + b },
	}
}

// when is a moment beside now, with the exact one for whoever points at it.
func when(t, now time.Time) template.HTML {
	t = t.UTC()
	return template.HTML(`<time datetime="` + t.Format(time.RFC3339) + `" title="` + t.Format("2006-01-02 15:04:05 UTC") + `">` + ago(t, now) + `</time>`) // of a time only
}

// coming is a moment that is still to come, told with a word before it, as until
// 17:11:17Z (in 59m); of one that is over that is told instead.
func coming(word, over string, t, now time.Time) template.HTML {
	text := strings.TrimSpace(word + " " + terminal.Clock(t, now) + " (" + ago(t, now) + ")")
	if !t.After(now) {
		text = over
	}
	return template.HTML(`<time datetime="` + t.UTC().Format(time.RFC3339) + `">` + template.HTMLEscapeString(text) + `</time>`) // the words are the templates'
}

// parked reports whether a letter of a class has not failed: it waits for a
// gate.
func parked(c wire.Class) bool {
	return slices.Contains([]wire.Class{wire.ClassCircuitOpen, wire.ClassPaused, wire.ClassThrottled, wire.ClassQuota}, c)
}

// waitsFor is a reason to wait, as a person says it.
func waitsFor(r fetchworker.Reason) string {
	switch r {
	case fetchworker.ReasonPaused:
		return "the end of an operator's pause"
	case fetchworker.ReasonCircuitOpen:
		return "the provider, which fails and is probed"
	case fetchworker.ReasonThrottled:
		return "the end of a hold that the provider asked for"
	case fetchworker.ReasonQuota:
		return "calls that may be made again: the quota is used up"
	case fetchworker.ReasonUnauthorized:
		return "a key that the provider takes"
	case fetchworker.ReasonNoWorker:
		return "a worker that serves the provider"
	case fetchworker.ReasonRetry:
		return "its next call: the last one has failed"
	case fetchworker.ReasonPending:
		return "the provider, which still computes it"
	}
	return string(r)
}

// bar is a part of a whole, for those who would rather look than read.
func bar(part, whole any, kind string) template.HTML {
	const form = `<svg class="bar %s" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label="%d %%"><rect width="%d" height="4"/></svg>`
	n := share(part, whole)
	if kind == "use" && n >= 95 && float(whole) > 1e6 {
		kind = "warn" // of bytes
	}
	return template.HTML(fmt.Sprintf(form, template.HTMLEscapeString(kind), n, n)) // of numbers only
}

// limitOf is the number of calls of a limit as 120/min.
func limitOf(limit string) int {
	number, _, _ := strings.Cut(limit, "/")
	n, _ := strconv.Atoi(number) // else no bar
	return n
}

// field is one input of a form: with a list of what may be written where there
// is one, and marked where it is wrong.
type field struct {
	Wrong       fault
	Form        form
	Name, Label string
	Size, Most  int
	Hint        string
}

// List are what may be written into it.
func (f field) List() []string {
	switch f.Name {
	case "provider":
		return f.Form.Providers
	case "agent":
		return f.Form.Agents
	}
	return nil
}

// lettersOf is where the letters of a cause are listed: of transient-503 those of
// the class transient with HTTP 503.
func lettersOf(c operate.Cause) string {
	q := url.Values{"provider": {c.Provider}, "operation": {c.Operation}}
	class, rest, _ := strings.Cut(c.Cause, "-")
	if slices.Contains(wire.LetterClasses(), wire.Class(class)) {
		q.Set("class", class)
	}
	if n, err := strconv.Atoi(rest); err == nil && n >= 100 && n <= 599 {
		q.Set("http", rest)
	}
	return "/letters?" + q.Encode()
}

type two struct{ A, B any }

type three struct{ A, B, C any }

func with2(a, b any) two { return two{a, b} }

func with3(a, b, c any) three { return three{a, b, c} }

// causeWords are a doctor's cause as a person says it.
func causeWords(c doctor.Cause) string {
	if c == doctor.CauseFlood {
		return "one agent's flood"
	}
	return strings.ReplaceAll(string(c), "_", " ")
}

// ago is a moment beside now, in words.
func ago(t, now time.Time) string {
	if d := now.Sub(t).Abs(); d < time.Second {
		return "now"
	}
	return terminal.Ago(t.Round(time.Second), now.Round(time.Second))
}

// num writes a count with a thin space between thousands.
func num(n any) string {
	var text string
	switch v := n.(type) {
	case int:
		text = strconv.Itoa(v)
	case int64:
		text = strconv.FormatInt(v, 10)
	default:
		return fmt.Sprint(n)
	}
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	var parts []string
	for len(text) > 3 {
		parts, text = append([]string{text[len(text)-3:]}, parts...), text[:len(text)-3]
	}
	return sign + strings.Join(append([]string{text}, parts...), "\u202f")
}

func size(n int64) string {
	const unit = 1024
	value, name := float64(n), "B"
	for _, next := range []string{"KB", "MB", "GB", "TB"} {
		if value < unit {
			break
		}
		value, name = value/unit, next
	}
	if name == "B" {
		return strconv.FormatInt(n, 10) + " B"
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + name
}

// share is a part of a whole for a bar that is 100 wide; what is there at all
// can be seen.
func share(part, whole any) int {
	p, w := float(part), float(whole)
	if w <= 0 || p <= 0 {
		return 0
	}
	return int(math.Ceil(min(100*p/w, 100)))
}

func percent(part, whole any) string {
	if float(whole) <= 0 {
		return "–"
	}
	return strconv.FormatFloat(100*float(part)/float(whole), 'f', 0, 64) + " %"
}

func float(n any) float64 {
	switch v := n.(type) {
	case int:
		return float64(v)
	case int64:
		return float64(v)
	case float64:
		return v
	}
	return 0
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return num(n) + " " + many
}

// title is a text with a capital in front.
func title(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// oneLine is a text that a person gave, as one line of so many characters.
func oneLine(s string, most int) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "")), " ")
	if r := []rune(s); len(r) > most {
		s = string(r[:most])
	}
	return s
}

// traceURL is where a trace is looked at; empty where nowhere is configured.
func (s *Server) traceURL(id string) string {
	if s.Trace == "" || strings.Trim(id, "0123456789abcdef") != "" || id == "" {
		return ""
	}
	return strings.ReplaceAll(s.Trace, "{trace}", id)
}
