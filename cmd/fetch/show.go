package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"fetchworker"
	"fetchworker/internal/terminal"
)

// shown is what --json prints: of body and body_base64 the one that can hold
// the body.
type shown struct {
	Status     fetchworker.Status `json:"status"`
	Headers    map[string]string  `json:"headers"`
	Body       any                `json:"body,omitempty"`
	BodyBase64 []byte             `json:"body_base64,omitempty"`
}

// show prints a final answer. The error of a failed one is errFailed.
func show(a fetchworker.Answer, asJSON bool, stdout, stderr io.Writer) error {
	var err error
	switch {
	case asJSON:
		err = encode(stdout, asShown(a))
	case a.Status == fetchworker.StatusFailed:
	case terminal.Is(stdout): // which must not obey what a provider sent
		_, err = io.WriteString(stdout, terminal.Printable(string(a.Body)))
	default:
		_, err = stdout.Write(a.Body)
	}
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	if err := terminal.Printf(stderr, "%s\n", statusLine(a)); err != nil {
		return fmt.Errorf("write the status: %w", err)
	}
	if a.Status == fetchworker.StatusFailed {
		return errFailed
	}
	return nil
}

func encode(out io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = out.Write(append(terminal.JSON(text), '\n'))
	return err
}

func asShown(a fetchworker.Answer) shown {
	m := a.Encode()
	s := shown{Status: a.Status, Headers: map[string]string{}}
	for name := range m.Header {
		s.Headers[name] = m.Header.Get(name)
	}
	body := a.Body // also of one that was stored in parts
	if a.Problem != nil {
		body = m.Data
	}
	switch {
	case json.Valid(body):
		s.Body = json.RawMessage(body)
	case utf8.Valid(body):
		s.Body = string(body)
	default:
		s.BodyBase64 = body
	}
	return s
}

// statusLine tells of an answer in one line.
func statusLine(a fetchworker.Answer) string {
	if p := a.Problem; p != nil {
		line := fmt.Sprintf("%s, %s", a.Status, p.Error())
		if !p.RetryAt.IsZero() {
			line += ", not before " + p.RetryAt.Local().Format(time.DateTime)
		}
		if a.Review {
			line += " (a person will see it)"
		}
		return line
	}
	line := fmt.Sprintf("%s, %d bytes", a.Status, len(a.Body))
	if a.Source == fetchworker.SourceCache {
		line += fmt.Sprintf(", %v old, from the cache", a.Age)
	} else {
		line += fmt.Sprintf(", %d ms", a.Latency.Milliseconds())
	}
	if a.Calls > 1 {
		line += fmt.Sprintf(", after %d calls", a.Calls)
	}
	if !a.Final {
		line += ", not final"
	}
	if a.Redacted {
		line += ", the provider's key in it was redacted"
	}
	return line
}
