package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"fetchworker"
)

// asked is one line of --from.
type asked struct {
	line int
	r    fetchworker.Request
	err  error // what is wrong with the line
}

// longestLine bounds a line of --from, bytes.
const longestLine = fetchworker.MaxRequestBytes + 1<<10

// input opens --from; "-" is stdin.
func (c *cli) input(stdin io.Reader) (io.ReadCloser, error) {
	if c.from == "-" {
		return io.NopCloser(stdin), nil
	}
	return os.Open(c.from)
}

// lines reads requests from NDJSON, or from CSV whose first row names the
// parameters: what begins with a brace is JSON. Each is of the model but for
// what its line says. It ends with ctx, also where the next line does not come.
func lines(ctx context.Context, in io.Reader, model fetchworker.Request) <-chan asked {
	out := make(chan asked)
	go func() {
		defer close(out)
		send := func(a asked) bool {
			select {
			case out <- a:
				return true
			case <-ctx.Done():
				return false
			}
		}
		reader := bufio.NewReaderSize(in, 64<<10)
		first, err := reader.Peek(1)
		for err == nil && strings.ContainsAny(string(first), " \t\r\n\ufeff") {
			_, _ = reader.ReadByte() // it was peeked at
			first, err = reader.Peek(1)
		}
		switch {
		case errors.Is(err, io.EOF):
		case err != nil:
			send(asked{line: 1, err: err})
		case first[0] == '{':
			ndjson(reader, model, send)
		default:
			table(reader, model, send)
		}
	}()
	return out
}

func ndjson(in io.Reader, model fetchworker.Request, send func(asked) bool) {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, longestLine)
	n := 0
	for scanner.Scan() {
		n++
		text := bytes.TrimSpace(scanner.Bytes())
		if len(text) == 0 {
			continue
		}
		r, err := requestOf(text, model)
		if !send(asked{line: n, r: r, err: err}) {
			return
		}
	}
	if err := scanner.Err(); err != nil {
		send(asked{line: n + 1, err: err})
	}
}

// wire are the fields by which a line is known to be a request, as an agent
// publishes it; any other object is the parameters alone.
type onLine struct {
	Params json.RawMessage `json:"params"`
}

// requestOf is the request of a JSON line.
func requestOf(text []byte, model fetchworker.Request) (fetchworker.Request, error) {
	r := model
	var w onLine
	if err := json.Unmarshal(text, &w); err != nil {
		return r, fmt.Errorf("no JSON object: %w", err)
	}
	if w.Params == nil {
		r.Params = bytes.Clone(text)
		return r, nil
	}
	given, err := fetchworker.DecodeRequest(text)
	if err != nil {
		return r, err
	}
	if given.ID != "" {
		r.ID = given.ID
	}
	r.Params = bytes.Clone(given.Params)
	if given.TTL > 0 || !given.Deadline.IsZero() {
		r.TTL, r.Deadline = given.TTL, given.Deadline
	}
	if given.MaxAge != nil {
		r.MaxAge = given.MaxAge
	}
	if given.MaxStale != nil {
		r.MaxStale = given.MaxStale
	}
	if given.Use != nil {
		r.Use = given.Use
	}
	r.ReplyTo = given.ReplyTo
	return r, nil
}

const byteOrderMark = "\ufeff"

func table(in io.Reader, model fetchworker.Request, send func(asked) bool) {
	text := bufio.NewReader(in)
	if mark, _ := text.Peek(len(byteOrderMark)); string(mark) == byteOrderMark { // a spreadsheet's
		_, _ = text.Discard(len(mark))
	}
	rows := csv.NewReader(text)
	rows.TrimLeadingSpace = true
	names, err := rows.Read()
	if err != nil {
		send(asked{line: 1, err: err})
		return
	}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		a := asked{r: model, err: err}
		if wrong := (*csv.ParseError)(nil); errors.As(err, &wrong) {
			a.line = wrong.StartLine // perhaps no field was read
		} else if err == nil {
			a.line, _ = rows.FieldPos(0)
		}
		if err == nil {
			params := map[string]string{}
			for i, value := range row {
				if value != "" {
					params[strings.TrimSpace(names[i])] = value
				}
			}
			a.r.Params = fetchworker.Params(params)
		}
		if !send(a) || err != nil && !errors.Is(err, csv.ErrFieldCount) {
			return
		}
	}
}
