package page

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

func noStream(err error) bool { return errors.Is(err, jetstream.ErrStreamNotFound) }

// story is all that is known of one request.
type story struct {
	fetchworker.Identity
	Records []row
	Answer  *fetchworker.Answer
	Problem string
	Acts    []done
	More    bool // of the acts, some are not shown
	Hold    string
	Trace   string
}

// request tells one request's story: publish, calls, letters, answers, audit.
func (s *Server) request(r *http.Request) (view, error) {
	i := fetchworker.Identity{Provider: r.PathValue("p"), Operation: r.PathValue("operation"), Agent: r.PathValue("agent"), ID: r.PathValue("id")}
	if !fetchworker.ValidToken(i.Provider) || !fetchworker.ValidToken(i.Operation) || !fetchworker.ValidToken(i.Agent) || !fetchworker.ValidID(i.ID) {
		return missing("that is no request's name"), nil
	}
	data, seen := story{Identity: i}, s.seen()
	f := browse.Filter{Provider: i.Provider, Operation: i.Operation, Agent: i.Agent, ID: i.ID}
	found, err := s.Desk.LookUp(r.Context(), f, []string{wire.StreamDLQ, wire.StreamReplay, wire.StreamReview})
	if err != nil {
		return view{}, err
	}
	for _, record := range found[i] {
		data.Records = append(data.Records, seen(record))
		if parts := strings.Split(record.Traceparent, "-"); len(parts) == 4 {
			data.Trace = parts[1]
		}
	}
	if data.Answer, err = s.Desk.Answer(r.Context(), i); err != nil {
		return view{}, err
	}
	if a := data.Answer; a != nil && a.Problem != nil {
		data.Problem = string(a.Problem.Code()) + ": " + a.Problem.Detail
	}
	if h, held := s.Fleet.Hold(i.Provider); held {
		data.Hold = h.Words(s.Desk.Now())
	}
	var more time.Time
	data.Acts, more, err = s.actsUntil(r.Context(), operate.ActFilter{Provider: i.Provider, Operation: i.Operation, Agent: i.Agent, ID: i.ID}, false)
	data.More = !more.IsZero()
	if data.Answer == nil && len(data.Records) == 0 && len(data.Acts) == 0 {
		nothing := "nothing is stored of " + i.Agent + "/" + i.ID + " of " + i.Provider + " " + i.Operation
		v := missing(nothing)
		v.Data = trouble{nothing, "a request that still waits in the queue has no record yet: see what waits"}
		v.Still = false
		return v, err
	}
	nav := ""
	for _, record := range data.Records {
		if nav = "letters"; record.Stream == wire.StreamReview {
			nav = "review"
		}
	}
	return view{Name: "request", Title: i.Agent + "/" + i.ID, Nav: nav, Data: data}, err
}

// address is where a request's story is.
func address(i fetchworker.Identity) string {
	return "/request/" + url.PathEscape(i.Provider) + "/" + url.PathEscape(i.Operation) + "/" + url.PathEscape(i.Agent) + "/" + url.PathEscape(i.ID)
}
