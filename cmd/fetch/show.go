package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"fetchworker"
	"fetchworker/internal/terminal"
)

// shown is what --json prints: of body and body_base64 the one that can hold
// the body.
type shown struct {
	Line       int                `json:"line,omitempty"` // of --from
	ID         string             `json:"id"`
	Status     fetchworker.Status `json:"status"`
	Final      bool               `json:"final"`
	Headers    map[string]string  `json:"headers"`
	Body       any                `json:"body,omitempty"`
	BodyBase64 []byte             `json:"body_base64,omitempty"`
}

// show prints a final answer; took is since it was asked for. The error of a
// failed one is errFailed.
func (c *cli) show(a fetchworker.Answer, took time.Duration) error {
	var err error
	switch {
	case c.json:
		err = c.object(asShown(a))
	case a.Status != fetchworker.StatusFailed:
		err = c.body(a.Body)
	}
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	if err := c.tell("%s\n", statusLine(a, took)); err != nil {
		return err
	}
	if a.Status == fetchworker.StatusFailed {
		return fmt.Errorf("%w: %w", errFailed, errTold)
	}
	return nil
}

// object writes a JSON object, which holds nothing that a terminal obeys.
func (c *cli) object(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.out.Write(append(terminal.JSON(text), '\n'))
	return err
}

// tell writes to standard error what is for a person.
func (c *cli) tell(format string, args ...any) error {
	if err := terminal.Printf(c.errs, format, args...); err != nil {
		return fmt.Errorf("write the status: %w", err)
	}
	return nil
}

// body writes a body to the byte; on a terminal so that a person can read it.
func (c *cli) body(body []byte) error {
	if !terminal.Is(c.out) {
		_, err := c.out.Write(body)
		return err
	}
	if json.Valid(body) {
		var b bytes.Buffer
		if err := json.Indent(&b, body, "", "  "); err != nil {
			return err
		}
		body = terminal.JSON(b.Bytes())
		if c.getenv("NO_COLOR") == "" {
			body = coloured(body)
		}
	} else {
		body = []byte(terminal.Printable(string(body)))
	}
	if _, err := c.out.Write(body); err != nil {
		return err
	}
	if !bytes.HasSuffix(body, []byte("\n")) {
		_, err := io.WriteString(c.out, "\n")
		return err
	}
	return nil
}

const (
	colourName = "\x1b[34m" // of a field
	colourText = "\x1b[32m"
	colourRest = "\x1b[33m" // numbers, true, false, null
	colourOff  = "\x1b[0m"
)

// coloured is JSON, laid out, with colours.
func coloured(text []byte) []byte {
	var b bytes.Buffer
	for i := 0; i < len(text); {
		from := i
		switch c := text[i]; {
		case c == '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			i++
			colour := colourText
			if bytes.HasPrefix(text[i:], []byte(":")) {
				colour = colourName
			}
			b.WriteString(colour + string(text[from:i]) + colourOff)
		case c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z':
			for i < len(text) && !strings.ContainsRune(",]} \n", rune(text[i])) {
				i++
			}
			b.WriteString(colourRest + string(text[from:i]) + colourOff)
		default:
			b.WriteByte(c)
			i++
		}
	}
	return b.Bytes()
}

func asShown(a fetchworker.Answer) shown {
	m := a.Encode()
	s := shown{ID: a.Identity.ID, Status: a.Status, Final: a.Final, Headers: map[string]string{}}
	for name := range m.Header {
		s.Headers[name] = m.Header.Get(name)
	}
	body := a.Body // also of one that was stored in parts
	if a.Problem != nil {
		body = m.Data
	}
	switch {
	case len(body) == 0:
	case json.Valid(body):
		s.Body = json.RawMessage(body)
	case utf8.Valid(body):
		s.Body = string(body)
	default:
		s.BodyBase64 = body
	}
	return s
}

// statusLine tells of an answer in one line; took is since it was asked for,
// zero where that is not known.
func statusLine(a fetchworker.Answer, took time.Duration) string {
	if p := a.Problem; p != nil {
		line := fmt.Sprintf("%s, %s", a.Status, p.Error())
		if !p.RetryAt.IsZero() {
			line += ", asked again at " + terminal.Clock(p.RetryAt, time.Now())
		}
		if a.Review {
			line += " (a person will see it)"
		}
		return line
	}
	line := fmt.Sprintf("%s, %d bytes", a.Status, len(a.Body))
	switch {
	case a.Source == fetchworker.SourceCache:
		line += fmt.Sprintf(", %v old, from the cache", a.Age)
	case a.Calls > 1:
		line += fmt.Sprintf(", %d calls, the last %d ms", a.Calls, a.Latency.Milliseconds())
	default:
		line += fmt.Sprintf(", %d ms", a.Latency.Milliseconds())
	}
	if took > 0 {
		line += fmt.Sprintf(" (%v in all)", took.Round(time.Millisecond))
	}
	if !a.Final {
		line += ", not final"
		if a.Reason != "" {
			line += ": " + string(a.Reason)
		}
	}
	if a.Redacted {
		line += ", the provider's key in it was redacted"
	}
	return line
}
