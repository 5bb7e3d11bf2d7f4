package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
)

// TestWhoWaitsIsToldWhatAChangedLimitMeans: a person gives a provider a small
// limit, another one of another length, and a large one, while requests wait for
// it. What the status, show and the stored answers say follows within ten
// seconds, and so do the calls.
func TestWhoWaitsIsToldWhatAChangedLimitMeans(t *testing.T) {
	begin(t)
	f := newFleet(t, func(*http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, `{"status":"ok","totalResults":1,"articles":[{"title":"a"}]}`)
		return &step
	})
	f.env["NEWS_API_KEY"], f.env["NEWS_BASE_URL"] = aKey, f.upstream.URL()
	f.worker()
	f.replayer()
	n := &newsroom{fleet: f}
	n.limit("2/12m")
	n.ask(6)
	n.follows("2/12m, 0 left", 4, 11*time.Minute, 13*time.Minute)
	n.limit("3/3m") // 2 of these are called
	n.follows("3/3m, 0 left", 3, 2*time.Minute, 4*time.Minute)
	n.limit("3/12m") // less: later again
	n.follows("3/12m, 0 left", 3, 11*time.Minute, 13*time.Minute)
	n.limit("2/24h") // more were called than it allows
	n.follows("2/d, 0 left", 3, 23*time.Hour, 25*time.Hour)
	n.limit("100/24h")
	n.follows("100/d, 94 left", 0, 0, 0)
	f.settled(30 * time.Second)
	if calls := len(f.upstream.Calls()); calls != len(f.accepted) {
		t.Errorf("%d calls for %d requests", calls, len(f.accepted))
	}
}

// newsroom is a fleet whose people change a limit.
type newsroom struct{ *fleet }

func (n *newsroom) limit(limits string) {
	n.t.Helper()
	p := launch(n.t, "replayer limit", program("replayer"), n.env, "limit", "newsapi", limits, "--yes", "--reason", "another plan")
	if code := p.ended(n.t, time.Minute); code != 0 {
		n.t.Fatalf("limit %s: exit code %d: %s", limits, code, p.log.tail(20))
	}
}

// ask asks so many times.
func (n *newsroom) ask(times int) {
	n.t.Helper()
	agent, err := n.agent("alice")
	if err != nil {
		n.t.Fatal(err)
	}
	for i := range times {
		r := fetchworker.Request{Provider: "newsapi", Operation: "headlines", Agent: "alice", ID: fmt.Sprint("N", i), Params: fmt.Appendf(nil, `{"q":"q%d"}`, i)}
		if _, err := agent.Submit(n.t.Context(), r); err != nil {
			n.t.Fatal(err)
		}
		n.accepted = append(n.accepted, r.Identity())
	}
}

// waits are those that wait, as their stored answers say, and for how long: the
// first and the last of them.
func (n *newsroom) waits() (ids []fetchworker.Identity, first, last time.Duration) {
	for _, id := range n.accepted {
		all := n.answers.Answers(id)
		if len(all) == 0 || all[len(all)-1].Final {
			continue
		}
		wait := time.Until(all[len(all)-1].RetryAt)
		if ids = append(ids, id); len(ids) == 1 || wait < first {
			first = wait
		}
		last = max(last, wait)
	}
	return ids, first, last
}

// follows waits until so many wait for so long, and status and show say the same.
func (n *newsroom) follows(status string, waiting int, soonest, latest time.Duration) {
	n.t.Helper()
	begun := time.Now()
	var ids []fetchworker.Identity
	var first, last time.Duration
	until(n.t, time.Minute, "the answers follow to "+status, func() bool {
		ids, first, last = n.waits()
		return len(ids) == waiting && (waiting == 0 || first >= soonest && last <= latest)
	})
	took := time.Since(begun)
	n.t.Logf("%s: %d wait %v to %v, seen after %v", status, waiting, first.Round(time.Second), last.Round(time.Second), took.Round(10*time.Millisecond))
	if full && took > 10*time.Second { // a crowded machine takes what it takes
		n.t.Errorf("%s: the answers follow after %v", status, took)
	}
	var says struct {
		Held    string    `json:"held"`
		Next    time.Time `json:"next_permit_at"`
		Permits []struct {
			Limit string `json:"limit"`
			Left  int    `json:"left"`
		} `json:"permits"`
	}
	n.says(&says, "status", "--provider", "newsapi")
	var words []string
	for _, p := range says.Permits {
		words = append(words, fmt.Sprintf("%s, %d left", p.Limit, p.Left))
	}
	if got := strings.Join(words, "; "); got != status || (says.Held == "quota") != (waiting > 0) {
		n.t.Errorf("the status says %q, held %q, want %q", got, says.Held, status)
	}
	if next := time.Until(says.Next); waiting > 0 && (next < soonest || next > latest) {
		n.t.Errorf("%s: the status says that the next permit comes in %v", status, next)
	}
	for _, id := range ids {
		var one struct {
			Records []struct {
				State     string    `json:"state"`
				NotBefore time.Time `json:"not_before"`
			} `json:"records"`
			Answer struct {
				Problem fetchworker.Problem `json:"problem"`
			} `json:"answer"`
		}
		n.says(&one, "show", "alice/"+id.ID)
		told := time.Until(one.Answer.Problem.RetryAt)
		if len(one.Records) != 1 || one.Records[0].State != "held" || told < soonest || told > latest {
			n.t.Errorf("%s: show says %+v", status, one)
		}
	}
}

func (n *newsroom) says(v any, args ...string) {
	n.t.Helper()
	p := launch(n.t, "replayer "+args[0], program("replayer"), n.env, append(args, "--json")...)
	if code := p.ended(n.t, time.Minute); code != 0 {
		n.t.Fatalf("%v: exit code %d: %s", args, code, p.log.tail(20))
	}
	if err := json.Unmarshal([]byte(p.log.tail(1000)), v); err != nil {
		n.t.Fatalf("%v: %v: %s", args, err, p.log.tail(1000))
	}
}
