package fetch_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// workedExample is one of the worked examples as a whole worker and a replayer run it.
type workedExample struct {
	name  string
	vars  map[string]string
	hosts []string
	calls []string // what is asked: "provider operation {params}", with %d for what differs
	stops []string // recordings that are no answer, asked for one by one: "provider operation {params} recording code"
}

var examples = []workedExample{
	{
		name: "edgar", vars: map[string]string{"EDGAR_CONTACT": "Example Org admin@example.org"},
		hosts: []string{"data.sec.gov", "www.sec.gov"},
		calls: []string{`edgar submissions {"cik":"%010d"}`, `edgar-www get {"path":"/files/company_tickers.json","query":{"n":"%d"}}`},
		stops: []string{`edgar submissions {"cik":"9000000001"} error_unknown not_found`},
	},
	{
		name: "github", vars: map[string]string{"GITHUB_API_KEY": "ghp_0123456789", "GITHUB_REQUESTS_PER_MINUTE": "20"},
		hosts: []string{"api.github.com"},
		calls: []string{`github repository {"owner":"nats-io","repo":"nats-%d"}`},
		stops: []string{`github repository {"owner":"nats-io","repo":"no-such-thing"} error_not_found not_found`},
	},
	{
		name: "alphavantage", vars: map[string]string{"ALPHAVANTAGE_API_KEY": "demokey0123"},
		hosts: []string{"www.alphavantage.co"},
		calls: []string{`alphavantage quote {"symbol":"I%d"}`},
		stops: []string{`alphavantage quote {"symbol":"NOPE"} error_symbol not_found`},
	},
	{
		name: "spotify", vars: map[string]string{"SPOTIFY_CLIENT_ID": "client-id-01", "SPOTIFY_CLIENT_SECRET": "client-secret-01", "SPOTIFY_REQUESTS_PER_MINUTE": "20"},
		hosts: []string{"api.spotify.com", "accounts.spotify.com"},
		calls: []string{`spotify artist {"id":"%022d"}`},
		stops: []string{`spotify artist {"id":"9000000000000000000000"} error_id not_found`},
	},
	{
		name: "countries", vars: map[string]string{"COUNTRIES_REQUESTS_PER_MINUTE": "20"}, hosts: []string{"countries.trevorblades.com"},
		calls: []string{`countries country {"code":"%c"}`},
		stops: []string{`countries country {"code":"ZZ"} error_unknown not_found`},
	},
	{
		name: "github-statistics", vars: map[string]string{"GITHUB_STATISTICS_API_KEY": "ghp_0123456789", "GITHUB_STATISTICS_REQUESTS_PER_MINUTE": "20"},
		hosts: []string{"api.github.com"},
		calls: []string{`github-statistics commit_activity {"owner":"nats-io","repo":"nats-%d"}`},
	},
}

// Each of the worked examples through a whole worker and a replayer, with no
// line of Go: it is checked, served and limited; an outage parks what is asked
// meanwhile, and all of it is answered when that is over.
func TestWorkedExamplesThroughAWorker(t *testing.T) {
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			if testing.Short() && e.name != "edgar" {
				t.Skip("one of the six in short")
			}
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { e.play(t, dir) })
		})
	}
}

func (e *workedExample) play(t *testing.T, dir string) {
	exchanges, err := providertest.ExchangesIn(os.DirFS("../../examples"), e.name)
	if err != nil || len(exchanges) == 0 {
		t.Fatalf("%d exchanges, %v", len(exchanges), err)
	}
	catalogue, err := os.ReadFile("../../examples/" + e.name + "/catalog.yaml")
	if err != nil {
		t.Fatal(err)
	}
	servers := make([]*providertest.Server, len(e.hosts))
	for i, host := range e.hosts {
		servers[i] = providertest.Pipe(host, exchanges...)
	}
	defer func() {
		for _, s := range servers[1:] { // the first is the rig's
			s.Close()
		}
	}()
	api := servers[0]
	r := newRig(t, dir, api)
	defer r.close()
	r.dial = providertest.DialHosts(servers...)
	file := filepath.Join(dir, "catalog.yaml")
	// Played without TLS; nothing else changes.
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(catalogue), "https://", "http://")), 0o600); err != nil {
		t.Fatal(err)
	}
	delete(r.env, "FMP_API_KEY")
	r.env["FETCH_CATALOG"] = file
	for name, value := range e.vars {
		r.env[name] = value
	}
	// Whatever differs in what is asked, the recorded answer is the answer.
	for i, s := range servers {
		if i == 0 || len(e.calls) > 1 {
			s.Fallback = func(*http.Request) *providertest.Step { step := e.answer(api); return &step }
		}
	}
	first, second, replayer := r.start(nil), r.start(nil), r.startReplayer(nil) // two workers share what there is
	defer func() {
		replayer()
		second()
		first()
	}()

	// Served.
	limits := r.serving[0].Provider.Limits
	if len(limits) == 0 {
		t.Fatal("it has no limits")
	}
	shortest := limits[0]
	for _, l := range limits {
		if l.Per < shortest.Per {
			shortest = l
		}
	}
	n := 0
	ask := func(lane fetchworker.Lane) fetchworker.Identity {
		n++
		line := strings.ReplaceAll(e.calls[n%len(e.calls)], "%c", string(rune('A'+n/26))+string(rune('A'+n%26)))
		if strings.Contains(line, "%") {
			line = fmt.Sprintf(line, n)
		}
		return r.askLine(line, lane, fmt.Sprint("r", n))
	}
	for range len(e.calls) {
		if a := r.final(ask("interactive"), time.Minute); a.Status != fetchworker.StatusOK || a.Source != fetchworker.SourceOrigin {
			t.Fatalf("%+v %s", a, a.Body)
		}
	}

	// Limited, whatever is asked: counted at the hosts, all together.
	var ids []fetchworker.Identity
	for range min(2*shortest.N-2, 30) {
		ids = append(ids, ask("batch"))
	}
	time.Sleep(min(4*shortest.Per, 2*time.Minute))
	var all []time.Time
	for i, s := range servers {
		if i == 0 || len(e.calls) > 1 {
			for _, c := range s.Calls() {
				all = append(all, c.At)
			}
		}
	}
	for _, l := range limits {
		if most := mostIn(all, l.Per); most > l.N {
			t.Errorf("%d calls in %v, of %d", most, l.Per, l.N)
		}
	}
	if len(all) < min(shortest.N, 12)/2 {
		t.Errorf("only %d calls of %v", len(all), limits)
	}

	for _, id := range ids {
		if a := r.final(id, 70*time.Hour); a.Status != fetchworker.StatusOK {
			t.Errorf("%v: %s %s", id, a.Status, a.Body)
		}
	}

	// What the API says of a request is the request's answer.
	for _, stop := range e.stops {
		line, means, _ := strings.Cut(stop, "} ")
		recording, code, _ := strings.Cut(means, " ")
		api.Script(api.Named(recording))
		n++
		if a := r.final(r.askLine(line+"}", "interactive", fmt.Sprint("s", n)), 48*time.Hour); a.Problem == nil || string(a.Problem.Code()) != code {
			t.Errorf("%s: %+v", stop, a)
		}
	}

	// Parked in an outage, and answered when it is over.
	for _, s := range servers {
		s.SetDown(true)
	}
	var parked []fetchworker.Identity
	for range 5 {
		parked = append(parked, ask("interactive"))
	}
	time.Sleep(10 * time.Minute)
	if r.count(wire.StreamDLQ) < 5 || r.events(budget.KindCircuit) == 0 {
		t.Errorf("%d letters and %d circuit events in an outage", r.count(wire.StreamDLQ), r.events(budget.KindCircuit))
	}
	for _, s := range servers {
		s.SetDown(false)
	}
	for _, id := range parked {
		if a := r.final(id, 70*time.Hour); a.Status != fetchworker.StatusOK {
			t.Errorf("%v: %s %s", id, a.Status, a.Body)
		}
	}
	r.drained(wire.StreamDLQ, 0, time.Hour)
	if n := r.count(wire.StreamReview); n != 0 {
		t.Errorf("%d in review", n)
	}
	if strings.Contains(r.logs.String(), "client-secret-01") {
		t.Error("a secret is logged")
	}
}

// answer is what is recorded of a call that went well.
func (e *workedExample) answer(api *providertest.Server) providertest.Step {
	switch e.name {
	case "edgar":
		return api.Named("submissions")
	case "github":
		step := api.Named("repository")
		for name := range step.Header { // the count of a moment long past
			if strings.HasPrefix(http.CanonicalHeaderKey(name), "X-Ratelimit") {
				step.Header.Del(name)
			}
		}
		return step
	case "alphavantage":
		return api.Named("quote")
	case "spotify":
		return api.Named("artist")
	case "countries":
		return api.Named("country")
	}
	return api.Named("commit_activity")
}

// askLine asks for "provider operation {params}".
func (r *rig) askLine(line string, lane fetchworker.Lane, id string) fetchworker.Identity {
	r.t.Helper()
	provider, rest, _ := strings.Cut(line, " ")
	operation, params, _ := strings.Cut(rest, " ")
	return r.ask(fetchworker.RequestSubject(provider, lane, operation, "alice"), id, fmt.Sprintf(`{"id":%q,"params":%s}`, id, params))
}

// mostIn is the most that lie within any span of a length.
func mostIn(at []time.Time, span time.Duration) (most int) {
	for _, from := range at {
		n := 0
		for _, t := range at {
			if !t.Before(from) && t.Sub(from) < span {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}
