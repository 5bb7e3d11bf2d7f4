package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"
	"fetchworker/internal/wire"

	"github.com/spf13/cobra"
)

func (c *cli) cmdShow() *cobra.Command {
	s := &selection{}
	cmd := &cobra.Command{
		Use:   "show [AGENT/]ID",
		Short: "Show one request: letter, review item, attempts, answer so far",
		Long: `Show one request, wherever it is: as a dead letter, released to the workers, in
review, or only answered; with every attempt kept, its answer so far, its trace
and what would happen on a replay.

An id is unique within a provider, operation and agent. Where several requests
have the same one, they are listed; name one with AGENT/ID, --provider and
--operation.`,
		Example: `  replayer show q-17
  replayer show alice/q-17 --json`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			return c.show(cmd, s, args,
				wire.StreamDLQ, wire.StreamReplay, wire.StreamReview, fetchworker.StreamResults)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&s.filter.Provider, "provider", "", "of this `provider`")
	f.StringVar(&s.filter.Operation, "operation", "", "of this `operation`")
	f.StringVar(&s.filter.Agent, "agent", "", "of this `agent`")
	return cmd
}

// dossier is all that is known of one request: the line of show --json.
type dossier struct {
	Provider  string       `json:"provider"`
	Operation string       `json:"operation"`
	Agent     string       `json:"agent"`
	ID        string       `json:"id"`
	Records   []letterLine `json:"records"` // letter, released letter, review item
	Answer    *answerLine  `json:"answer,omitempty"`
	OnReplay  string       `json:"on_replay"`
}

type answerLine struct {
	Status      string          `json:"status"`
	Final       bool            `json:"final"`
	Review      bool            `json:"review,omitempty"`
	Generation  int             `json:"generation"`
	HTTPStatus  int             `json:"http_status,omitempty"`
	Calls       int             `json:"calls"`
	Failures    int             `json:"failures"`
	At          time.Time       `json:"at,omitzero"`
	ContentType string          `json:"content_type,omitempty"`
	Bytes       int64           `json:"bytes"`
	Problem     json.RawMessage `json:"problem,omitempty"`
}

// show looks for a request in the streams given.
func (c *cli) show(cmd *cobra.Command, s *selection, args []string, streams ...string) error {
	if err := s.resolve(args, time.Now()); err != nil {
		return err
	}
	ctx, l, done, err := c.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	found, err := l.LookUp(ctx, s.filter, streams)
	if err != nil {
		return err
	}
	switch len(found) {
	case 0:
		return nothing("replayer list and replayer review list show what is there; a request that still waits in the queue has no record yet", "nothing is stored of %s", strings.Join(args, " "))
	case 1:
	default:
		return c.ambiguous(slices.Collect(maps.Keys(found)))
	}
	for identity, records := range found {
		return c.showOne(ctx, l, identity, records)
	}
	return nil
}

// ambiguous lists the requests that an argument could mean.
func (c *cli) ambiguous(identities []fetchworker.Identity) error {
	var lines []string
	for _, i := range identities {
		lines = append(lines, "  "+nameOf(i))
	}
	slices.Sort(lines)
	c.sayf("%d requests have this id:", len(lines))
	for _, line := range lines {
		c.sayf("%s", line)
	}
	return misused("name one of them", "%d requests have this id", len(lines))
}

func (c *cli) showOne(ctx context.Context, l *link, i fetchworker.Identity, records []browse.Found) error {
	fleet, err := l.Fleet(ctx)
	if err != nil {
		return err
	}
	defer fleet.Close()
	answer, err := l.Answer(ctx, i)
	if err != nil {
		return err
	}
	d := dossier{Provider: i.Provider, Operation: i.Operation, Agent: i.Agent, ID: i.ID, Records: []letterLine{}}
	for _, r := range records {
		d.Records = append(d.Records, lineOf(r, fleet.Seen()).whole(r))
	}
	if answer != nil {
		d.Answer = answerOf(*answer)
	}
	d.OnReplay = outlook(fleet, records, answer, l.Now())
	if c.json {
		return c.object(d)
	}
	return c.printDossier(d, l.Now())
}

func answerOf(a fetchworker.Answer) *answerLine {
	line := &answerLine{
		Status: string(a.Status), Final: a.Final, Review: a.Review, Generation: a.Generation,
		HTTPStatus: a.HTTPStatus, Calls: a.Calls, Failures: a.Failures, At: a.Time,
		ContentType: a.ContentType, Bytes: int64(len(a.Body)),
	}
	if a.Claim != nil {
		line.Bytes = a.Claim.Bytes
	}
	if a.Problem != nil {
		line.Problem, _ = json.Marshal(a.Problem) // plain fields: cannot fail
	}
	return line
}

// outlook is what would happen to a request on a replay or requeue.
func outlook(f *operate.Fleet, records []browse.Found, answer *fetchworker.Answer, now time.Time) string {
	if len(records) == 0 {
		return "nothing: it has its answer, and there is no letter"
	}
	r := records[0] // a letter before a released one before an item
	switch {
	case r.Fault != nil:
		return "nothing: its headers cannot be read"
	case answer != nil && answer.Final && !answer.Review:
		return "nothing: it has its final answer"
	case answer != nil && answer.Generation > r.Generation && r.Stream == wire.StreamReview:
		return "nothing: a later generation is answered; replayer review requeue would only delete the item"
	case r.Stream == wire.StreamReplay:
		return "nothing: it is released already and waits for a worker"
	case r.Stream == wire.StreamReview:
		next := "replayer review requeue starts generation " + fmt.Sprint(r.Generation+1) + " with no failures"
		return join(next, held(f, r.Provider, now))
	case !r.Deadline.IsZero() && !now.Before(r.Deadline):
		return "it is answered deadline_exceeded: its deadline has passed"
	case r.Class == wire.ClassPermanent || r.Class == wire.ClassPoison || r.Class == wire.ClassExpired:
		return "it goes to review, for " + string(r.Class) + " is not retried"
	}
	if h, is := f.Hold(r.Provider); is && h.Stops {
		return "refused: " + h.Words(now)
	}
	return join("a replayer releases it at once to "+orNobody(workerNames(f.Provider(r.Provider, now).Workers)), held(f, r.Provider, now))
}

func orNobody(names string) string {
	if names == "" {
		return "the next worker"
	}
	return names
}

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; but ")
}

func (c *cli) printDossier(d dossier, now time.Time) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, terminal.Sprintf(format, args...))
	}
	line("request", "%s/%s  %s %s", d.Agent, d.ID, d.Provider, d.Operation)
	for _, r := range d.Records {
		fmt.Fprintf(&b, "\n")
		line("where", "%s, %s, %s lane, generation %d", r.Where, r.State, r.Lane, r.Generation)
		if r.Unreadable != "" {
			line("unreadable", "%s", r.Unreadable)
		}
		line("class", "%s", strings.TrimSpace(r.Class+" "+r.Code))
		line("error", "%s", r.Error)
		line("calls", "%d, of them %d failures", r.Calls, r.Failures)
		line("requested", "%s", terminal.Stamp(r.RequestedAt, now))
		line("failed", "%s, first %s", terminal.Stamp(r.FailedAt, now), terminal.Stamp(r.FirstFailedAt, now))
		if !r.Deadline.IsZero() {
			line("deadline", "%s", terminal.Stamp(r.Deadline, now))
		}
		if r.Where == "dlq" {
			line("due", "%s", terminal.Stamp(r.NotBefore, now))
		}
		line("worker", "%s", r.Worker)
		line("trace", "%s", r.TraceID)
		for i, a := range r.History {
			line(fmt.Sprintf("attempt %d", i+1), "%s  %s  HTTP %d  %d ms  %s", terminal.Stamp(a.At, now), a.Class, a.HTTPStatus, a.LatencyMS, a.Error)
		}
		line("body", "%s", string(r.Request))
	}
	fmt.Fprintf(&b, "\n")
	if a := d.Answer; a == nil {
		line("answer", "none yet")
	} else {
		line("answer", "%s, final %v, generation %d, %d bytes, %s", a.Status, a.Final, a.Generation, a.Bytes, terminal.Stamp(a.At, now))
		if a.Problem != nil {
			line("", "%s", string(a.Problem))
		}
	}
	line("on replay", "%s", d.OnReplay)
	return c.printf("%s", terminal.Ours(b.String()))
}
