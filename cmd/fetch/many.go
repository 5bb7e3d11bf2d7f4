package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"fetchworker"
	"fetchworker/internal/terminal"

	"github.com/spf13/cobra"
)

// answers is where the answers of --from go, a line each. A file begins with a
// line that holds the run: the ids of its requests are made of it, so that
// asked again they are the same ones.
type answers struct {
	out  io.Writer
	file *os.File
	run  string
	done map[int]string // by line: the digest of what was answered
}

// begun is the first line of a file of answers.
type begun struct {
	Run string `json:"fetch_run"`
}

// open opens what is answered already, or begins anew. What a crash has left
// of a last line is cut off.
func (c *cli) open() (*answers, error) {
	a := &answers{out: c.out, run: strings.ToLower(fetchworker.NewID()[:16]), done: map[int]string{}}
	if c.to == "" {
		return a, nil
	}
	file, err := os.OpenFile(c.to, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	a.file, a.out = file, file
	whole, err := a.read(file)
	if err == nil {
		err = file.Truncate(whole)
	}
	if err == nil {
		_, err = file.Seek(whole, io.SeekStart)
	}
	if err == nil && whole == 0 {
		err = json.NewEncoder(file).Encode(begun{a.run})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", c.to, err), file.Close())
	}
	return a, nil
}

// read takes in what is answered, and tells how many bytes of it are whole.
func (a *answers) read(in io.Reader) (whole int64, err error) {
	reader := bufio.NewReader(in)
	for n := 1; ; n++ {
		text, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if err != nil {
			return whole, err
		}
		if n == 1 {
			var b begun
			if json.Unmarshal(text, &b) != nil || b.Run == "" {
				return 0, errors.New("it is no file of answers: it begins with no run")
			}
			a.run = b.Run
		} else {
			var s struct {
				Line    int               `json:"line"`
				Headers map[string]string `json:"headers"`
			}
			if err := json.Unmarshal(text, &s); err != nil || s.Line == 0 {
				return 0, fmt.Errorf("line %d is no answer", n)
			}
			a.done[s.Line] = s.Headers[digestHeader]
		}
		whole += int64(len(text))
	}
}

func (a *answers) close() error {
	if a.file == nil {
		return nil
	}
	return errors.Join(a.file.Sync(), a.file.Close())
}

// digestHeader is what a line of the file of answers keeps of its request.
const digestHeader = "Fetch-Request-Digest"

// write writes one answer in one write, so that a crash cuts at most this one.
func (a *answers) write(line int, answer fetchworker.Answer, digest string) error {
	s := asShown(answer)
	s.Line = line
	s.Headers[digestHeader] = digest
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = a.out.Write(append(text, '\n'))
	return err
}

// many asks for every line of --from.
func (c *cli) many(cmd *cobra.Command, args []string) error {
	model, err := c.request(cmd, args)
	if err != nil {
		return c.advise(cmd.Context(), args, err)
	}
	if len(args) > wordsNeeded || c.id != "" {
		return fmt.Errorf("%w: with --from the lines give parameters and ids", errUsage)
	}
	if !cmd.Flags().Changed("lane") {
		model.Lane = fetchworker.LaneBatch
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if cmd.Flags().Changed("timeout") {
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	in, err := c.input(cmd.InOrStdin())
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	defer func() { _ = in.Close() }() // it was only read
	out, err := c.open()
	if err != nil {
		return fmt.Errorf("%w: --out %w", errUsage, err)
	}
	l, err := c.connect()
	if err != nil {
		return errors.Join(err, out.close())
	}
	defer l.close()
	err = c.ask(ctx, l, lines(ctx, in, model), out)
	return c.advise(cmd.Context(), args, errors.Join(err, out.close()))
}

// ask asks for the lines that have no answer yet, and writes those as they come.
func (c *cli) ask(ctx context.Context, l *link, lines <-chan asked, out *answers) error {
	m := &many{c: c, out: out, left: make(chan struct{}, c.parallel), lines: map[string]asked{}, how: map[string]int{}}
	progress := terminal.NewProgress(c.errs, "answered", 0)
	var failed error
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for a, err := range l.FetchAll(ctx, m.requests(ctx, lines)) {
		<-m.left
		if failed != nil {
			continue
		}
		if err := m.take(a, err); err != nil {
			failed = err
			stop() // what is on its way goes on without us
			continue
		}
		progress.Add()
	}
	progress.Close()
	return errors.Join(failed, m.end(failed))
}

// many is what is on its way.
type many struct {
	c    *cli
	out  *answers
	left chan struct{} // a place for each that is on its way

	mu    sync.Mutex
	lines map[string]asked // on their way, by id

	how     map[string]int // how many ended so
	skipped int
	wrong   error // of the lines
}

// requests are those of the lines that have no answer yet.
func (m *many) requests(ctx context.Context, lines <-chan asked) func(func(fetchworker.Request) bool) {
	return func(yield func(fetchworker.Request) bool) {
		for a := range lines {
			if a.err != nil {
				m.wrong = fmt.Errorf("%w: %s line %d: %w", errUsage, m.c.from, a.line, a.err)
				return
			}
			digest := fetchworker.RequestDigest(a.r.Operation, a.r.Params)
			if before, done := m.out.done[a.line]; done {
				if before != digest {
					m.wrong = fmt.Errorf("%w: %s line %d is not what %s has the answer of", errUsage, m.c.from, a.line, m.c.to)
					return
				}
				m.skipped++
				continue
			}
			if a.r.ID == "" {
				a.r.ID = m.out.run + "-" + strconv.Itoa(a.line)
			}
			select {
			case m.left <- struct{}{}:
			case <-ctx.Done():
				return
			}
			m.note(a)
			if !yield(a.r) {
				return
			}
		}
	}
}

func (m *many) note(a asked) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines[a.r.ID] = a
}

func (m *many) line(id string) asked {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.lines[id]
	delete(m.lines, id)
	return a
}

// take writes one answer.
func (m *many) take(answer fetchworker.Answer, err error) error {
	a := m.line(answer.Identity.ID)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		m.how["pending"]++
		return nil
	case err != nil:
		return fmt.Errorf("line %d: %w", a.line, ended(err))
	}
	m.how[string(answer.Status)]++
	if err := m.out.write(a.line, answer, fetchworker.RequestDigest(a.r.Operation, a.r.Params)); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// end sums up, and is the worst there was.
func (m *many) end(failed error) error {
	line := fmt.Sprintf("%d ok, %d stale, %d failed", m.how["ok"], m.how["stale"], m.how["failed"])
	if m.skipped > 0 {
		line += fmt.Sprintf(", %d answered before", m.skipped)
	}
	var err error
	switch {
	case m.wrong != nil:
		err = m.wrong
	case m.how["pending"] > 0:
		line += fmt.Sprintf(", %d without an answer yet", m.how["pending"])
		err = errPending
		if m.c.to != "" {
			err = fmt.Errorf("%w; the same command goes on", errPending)
		}
	case failed == nil && m.how["failed"] > 0:
		err = fmt.Errorf("%w: %w", errFailed, errTold)
	}
	return errors.Join(m.c.tell("%s\n", line), err)
}
