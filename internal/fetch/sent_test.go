package fetch_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
)

// TestWhatAgentsSendThroughTheWholeWorker is the table of what language models
// and people write, each as a request: what arrives at the provider, or what
// the agent is told and that nothing arrived.
func TestWhatAgentsSendThroughTheWholeWorker(t *testing.T) {
	const tells = "!" // an answer, and no call
	cases := []struct{ provider, operation, params, want string }{
		{"fmp", "history", `{"symbol":"AAPL","from":null,"to":null}`, "/api/v3/historical-price-full/AAPL"},
		{"polygon", "previous_close", `{"symbol":"AAPL","adjusted":null}`, "/v2/aggs/ticker/AAPL/prev"},
		{"fmp", "quote", `{"symbol":null}`, tells + `expected a symbol`},
		{"fmp", "quote", `{"symbol":7}`, tells + `write "7"`},
		{"fmp", "quote", `{"symbol":true}`, tells + `write "true"`},
		{"fmp", "quote", `{"symbol":"7203"}`, "/api/v3/quote/7203"},
		{"fmp", "quote", `{"symbol":"M&M.NS"}`, "/api/v3/quote/M&M.NS"},
		{"polygon", "snapshot", `{"symbol":"X:BTCUSD"}`, tells + "the ticker of a stock"},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":1704067200,"to":1706745600}`, tells + "Unix milliseconds"},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":1704067200000,"to":1706745600000}`, "/v2/aggs/ticker/AAPL/range/1/day/1704067200000/1706745600000"},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":"2026-02-01","to":"2026-01-01"}`, tells + "nothing after to"},
		{"polygon", "aggregates", `{"symbol":"x/../../../snapshot","from":"2026-01-02","to":"2026-01-02"}`, tells + `"symbol": expected`},
		{"polygon", "previous_close", `{"symbol":"A%2F..%2Fx"}`, tells + `"symbol": expected`},
		{"polygon", "previous_close", `{"symbol":"ÄÖ"}`, tells + `"symbol": expected`},
		{"polygon", "get", `{"path":"/v3/x/../y"}`, tells + `"path": expected`},
		{"polygon", "get", `{"path":"/v3/a%2Fb"}`, tells + `"path": expected`},
		{"polygon", "get", `{"path":"/v3/ä/../y"}`, tells + `"path": expected`},
		{"polygon", "get", `{"path":"/v3/x","query":null}`, "/v3/x"},
		{"fmp", "quote", `{"symbol":["AAPL"]}`, tells + `got ["AAPL"]`},
		{"fmp", "quote", `{"symbol":7.5}`, tells + `write "7.5"`},
		{"fmp", "quote", `{"symbol":"AAPL?apikey=x"}`, tells + `"symbol": expected`},
		{"fmp", "quote", `{"symbol":"AAPL\nX"}`, tells + `"symbol": expected`},
		{"fmp", "quote", `{"symbol":"ＡＡＰＬ"}`, tells + `"symbol": expected`},
		{"fmp", "quote", `{"Symbol":"AAPL"}`, tells + `did you mean symbol`},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":"2026-02-30","to":"2026-03-01"}`, tells + `"from": expected a date`},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":1.7040672e12,"to":1.7067456e12}`, tells + `"from": expected a date`},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":1704067200000,"to":"2023-01-01"}`, tells + "nothing after to"},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-03","limit":-1}`, tells + `"limit": expected`},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-03","limit":"10"}`, "/v2/aggs/ticker/AAPL/range/1/day/2026-01-02/2026-01-03"},
	}
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["POLYGON_API_KEY"], r.env["POLYGON_BASE_URL"], r.env["POLYGON_REQUESTS_PER_MINUTE"] = "polygon-key-0123", r.upstream.URL(), "0"
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			body := `{"status":"OK","results":[{"c":1}],"resultsCount":1}`
			if strings.HasPrefix(q.URL.Path, "/api/v3/") {
				body = `[{"symbol":"AAPL","price":1}]`
			}
			if strings.Contains(q.URL.Path, "historical") {
				body = `{"symbol":"AAPL","historical":[{"date":"2026-01-02","close":1}]}`
			}
			step := providertest.JSON(200, body)
			return &step
		}
		defer r.start(nil)()
		for i, c := range cases {
			before, id := len(r.upstream.Calls()), fmt.Sprint("q-", i)
			subject := "fetch.request." + c.provider + ".interactive." + c.operation + ".alice"
			a := r.final(r.ask(subject, id, fmt.Sprintf(`{"id":%q,"max_age":"0s","params":%s}`, id, c.params)), 10*time.Second)
			calls := r.upstream.Calls()[before:]
			if told, bad := strings.CutPrefix(c.want, tells); bad {
				if len(calls) > 0 || a.Problem == nil || a.Problem.Code() != fetchworker.CodeInvalidRequest || a.Review || !strings.Contains(a.Problem.Detail, told) {
					t.Errorf("%s: %d calls, %+v %+v", c.params, len(calls), a, a.Problem)
				}
				continue
			}
			if a.Status != fetchworker.StatusOK || len(calls) != 1 {
				t.Errorf("%s: %d calls, %+v %+v", c.params, len(calls), a, a.Problem)
			} else if target, _, _ := strings.Cut(calls[0].Target, "?"); target != c.want {
				t.Errorf("%s: %s was called", c.params, calls[0].Target)
			}
		}
	})
}

// TestAnswersSayWhatTheyWaitForAndWhatTheyAnswer: what is not final says for
// what and until when, and an answer says which request it is about, also
// where the id was used for another.
func TestAnswersSayWhatTheyWaitForAndWhatTheyAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = func(*http.Request) *providertest.Step {
			step := providertest.JSON(429, `{"Error Message":"Limit Reach"}`)
			step.Header.Set("Retry-After", "600")
			return &step
		}
		defer r.start(nil)()
		waits := r.until(r.quote("alice", "q", "AAPL", ""), 10*time.Second, func(a fetchworker.Answer) bool { return a.Problem != nil })
		if p := waits.Problem; p.RetryAt.IsZero() || p.Detail == p.Title || p.Detail == "" || p.Reason() != fetchworker.ReasonThrottled {
			t.Errorf("%+v", p)
		}
		if want := fetchworker.RequestDigest("quote", []byte(`{"symbol":"AAPL"}`)); waits.Digest != want {
			t.Errorf("digest %q, want %q", waits.Digest, want)
		}
		r.well()
		time.Sleep(11 * time.Minute)
		first := r.final(r.quote("bob", "same", "AAPL", ""), 10*time.Second)
		r.quote("bob", "same", "MSFT", "")
		time.Sleep(5 * time.Second)
		again := r.final(fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "bob", ID: "same"}, time.Second)
		if again.Digest != first.Digest || again.Digest == fetchworker.RequestDigest("quote", []byte(`{"symbol":"MSFT"}`)) {
			t.Errorf("digests %q, %q", first.Digest, again.Digest)
		}
	})
}
