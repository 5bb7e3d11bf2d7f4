package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// scene plays itself, and checks what it claims.
type scene struct {
	title string
	row   string // its name in the table
	play  func(context.Context, *stage) error
}

// scenes are the demonstration.
var scenes = []scene{
	{"Four providers answer, and a repeated question costs no call", "four providers", sceneAnswers},
	{"A bad request costs nothing", "a bad request", sceneRefused},
	{"A provider fails twice, then recovers", "two failures", sceneRecovers},
	{"A request that never succeeds does not stand in the way", "never succeeds", sceneReview},
	{"A provider goes down", "an outage", sceneDown},
	{"Meanwhile the others work, inside their limits", "a rate limit", sceneLimit},
	{"The provider comes back, and nothing was lost", "an outage", sceneUp},
}

// patience is how long a scene waits for what takes no time.
const patience = 5 * time.Second

func sceneAnswers(ctx context.Context, s *stage) error {
	quote := request{agent: "alice", provider: "fmp", operation: "quote", params: `{"symbol":"AAPL"}`, recording: "v3_quote"}
	for _, r := range []request{
		quote,
		{agent: "bob", provider: "polygon", operation: "aggregates", params: `{"symbol":"AAPL","from":"2026-02-09","to":"2026-02-13"}`, recording: "aggregates"},
		{agent: "alice", provider: "fred", operation: "series", params: `{"series_id":"GDP"}`, recording: "series"},
		{agent: "bob", provider: "newsapi", operation: "headlines", params: `{"q":"ports"}`, recording: "headlines"},
	} {
		a, err := s.exchange(ctx, r)
		if err != nil {
			return err
		}
		if a.Source != fetchworker.SourceOrigin {
			return fmt.Errorf("%s: the answer came from %q", r, a.Source)
		}
		s.say("   %s\n      %s: %d bytes, as the provider sent them\n", r, a.Status, len(a.Body))
	}

	before := len(s.upstream["fmp"].Calls())
	quote.agent = "bob"
	a, err := s.exchange(ctx, quote)
	if err != nil {
		return err
	}
	if calls := len(s.upstream["fmp"].Calls()); a.Source != fetchworker.SourceCache || calls != before {
		return fmt.Errorf("the same question again: from %q, after %d more calls", a.Source, calls-before)
	}
	s.say("   %s, too\n      %s, from the cache: fmp was not called again\n", quote, a.Status)
	return nil
}

// exchange asks, waits, and checks the answer against the recording.
func (s *stage) exchange(ctx context.Context, r request) (fetchworker.Answer, error) {
	id, err := s.ask(ctx, r)
	if err != nil {
		return fetchworker.Answer{}, err
	}
	a, err := s.final(ctx, id, patience)
	if err != nil {
		return a, err
	}
	return a, s.asRecorded(r, a)
}

func sceneRefused(ctx context.Context, s *stage) error {
	before := s.callsReceived()
	for _, c := range []struct {
		request
		code fetchworker.Code
	}{
		{request{agent: "alice", provider: "fmp", operation: "quote", params: `{"ticker":"AAPL"}`}, fetchworker.CodeInvalidRequest},
		{request{agent: "bob", provider: "newsapi", operation: "headlines", params: `{"q":"ports"}`, use: []string{"export"}}, fetchworker.CodeRightsViolation},
	} {
		id, err := s.ask(ctx, c.request)
		if err != nil {
			return err
		}
		a, err := s.final(ctx, id, patience)
		if err != nil {
			return err
		}
		if a.Status != fetchworker.StatusFailed || a.Problem.Code() != c.code {
			return fmt.Errorf("%s: %s, want %s", c.request, a.Status, c.code)
		}
		to := ""
		if len(c.use) > 0 {
			to = ", to " + strings.Join(c.use, " and ") + " it"
		}
		s.say("   %s%s\n      %s, %s: %s\n", c.request, to, a.Status, a.Problem.Code(), a.Problem.Detail)
	}
	if calls := s.callsReceived() - before; calls != 0 {
		return fmt.Errorf("a refused request cost %d calls", calls)
	}
	s.say("   Neither reached a provider.\n")
	return nil
}

func sceneRecovers(ctx context.Context, s *stage) error {
	fmp := s.upstream["fmp"]
	fault := providertest.JSON(http.StatusServiceUnavailable, `{"message":"maintenance"}`)
	fmp.Script(fault, fault)
	r := request{agent: "bob", provider: "fmp", operation: "profile", params: `{"symbol":"AAPL"}`, recording: "v3_profile"}
	s.say("   %s, while fmp is in trouble\n", r)
	id, err := s.ask(ctx, r)
	if err != nil {
		return err
	}
	calls, err := s.follow(ctx, id, fmp, "/profile/AAPL")
	if err != nil {
		return err
	}
	a, err := s.final(ctx, id, patience)
	if err != nil {
		return err
	}
	if err := s.asRecorded(r, a); err != nil {
		return err
	}
	if statuses := statusesOf(calls); !slices.Equal(statuses, []int{503, 503, 200}) || a.Calls != 3 || a.Failures != 2 {
		return fmt.Errorf("calls answered %v; the answer says %d calls, %d failures", statuses, a.Calls, a.Failures)
	}
	// Each wait is twice the last, give or take a fifth, so that many that
	// fail together do not come back together.
	for i, wait := 1, demoRetryBase; i < len(calls); i, wait = i+1, 2*wait {
		if gap := calls[i].At.Sub(calls[i-1].At); gap < wait*8/10 {
			return fmt.Errorf("retry %d came after %v, want about %v", i, gap, wait)
		}
	}
	s.say("      %s after %d calls, and alice and bob did nothing for it\n", a.Status, a.Calls)
	return nil
}

// follow prints a request's calls, known by their path, as they arrive at its
// provider, until it has its final answer.
func (s *stage) follow(ctx context.Context, id fetchworker.Identity, server *providertest.Server, path string) ([]providertest.Call, error) {
	var calls []providertest.Call
	told := 0
	err := s.until(ctx, 15*time.Second, id.String()+" is answered", func() (bool, error) {
		final := slices.ContainsFunc(s.seen.of(id), func(a fetchworker.Answer) bool { return a.Final })
		calls = slices.DeleteFunc(server.Calls(), func(c providertest.Call) bool { return !strings.Contains(c.Target, path) })
		for ; told < len(calls) && (calls[told].Status != 0 || final); told++ {
			s.say("      after %s: call %d, status %d\n", seconds(calls[told].At.Sub(calls[0].At)), told+1, calls[told].Status)
		}
		return final, nil
	})
	return calls, err
}

func statusesOf(calls []providertest.Call) []int {
	var statuses []int
	for _, c := range calls {
		statuses = append(statuses, c.Status)
	}
	return statuses
}

// brokenSymbol is one that the played polygon never answers.
const brokenSymbol = "BROKEN"

func sceneReview(ctx context.Context, s *stage) error {
	polygon := s.upstream["polygon"]
	before := len(polygon.Calls())
	r := request{agent: "alice", provider: "polygon", operation: "previous_close", params: `{"symbol":"` + brokenSymbol + `"}`}
	s.say("   %s, and polygon chokes on it every time\n", r)
	id, err := s.ask(ctx, r)
	if err != nil {
		return err
	}
	err = s.until(ctx, patience, "polygon has failed at it", func() (bool, error) {
		letters, err := s.count(ctx, wire.StreamDLQ)
		return letters > 0 && len(polygon.Calls()) > before, err
	})
	if err != nil {
		return err
	}
	// That another request succeeds meanwhile tells a bad request from a bad
	// provider: without it this would count as an outage.
	other := request{agent: "bob", provider: "polygon", operation: "previous_close", params: `{"symbol":"AAPL"}`, recording: "previous_close"}
	asked := time.Now()
	if _, err := s.exchange(ctx, other); err != nil {
		return err
	}
	s.say("   %s\n      ok after %s: the bad one waits its turn elsewhere\n", other, seconds(time.Since(asked)))

	a, err := s.final(ctx, id, 20*time.Second)
	if err != nil {
		return err
	}
	if a.Status != fetchworker.StatusFailed || a.Problem.Code() != fetchworker.CodeRetriesExhausted || !a.Review || a.Failures != a.Calls {
		return fmt.Errorf("%s: %+v", r, a)
	}
	subject := wire.ReviewSubject(id)
	stream, err := s.js.Stream(ctx, wire.StreamReview)
	if err != nil {
		return fmt.Errorf("stream %s: %w", wire.StreamReview, err)
	}
	item, err := stream.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		return fmt.Errorf("read %s: %w", subject, err)
	}
	letter, err := dlq.Decode(item.Subject, item.Header, item.Data)
	if err != nil {
		return err
	}
	s.say("   alice's request after 1 call and %d retries:\n      %s, %s. It lies in review, for a person, with its history:\n", a.Calls-1, a.Status, a.Problem.Code())
	for _, attempt := range letter.History {
		s.say("      after %s: %s\n", seconds(attempt.At.Sub(letter.History[0].At)), attempt.Error)
	}
	if len(letter.History) != a.Calls {
		return fmt.Errorf("the history tells of %d calls, the answer of %d", len(letter.History), a.Calls)
	}
	return nil
}

// duringOutage are asked of polygon while it is down.
var duringOutage = []request{
	{agent: "alice", provider: "polygon", operation: "dividends", params: `{"ticker":"AAPL","limit":2}`, recording: "dividends"},
	{agent: "bob", provider: "polygon", operation: "splits", params: `{"ticker":"AAPL","limit":1}`, recording: "splits"},
	{agent: "alice", provider: "polygon", operation: "ticker_details", params: `{"symbol":"AAPL"}`, recording: "ticker_details"},
	{agent: "bob", provider: "polygon", operation: "market_status", params: `{}`, recording: "market_status"},
	{agent: "alice", provider: "polygon", operation: "news", params: `{"ticker":"AAPL","limit":2}`, recording: "news"},
	{agent: "bob", provider: "polygon", operation: "snapshot", params: `{"symbol":"AAPL"}`, recording: "snapshot"},
	{agent: "alice", provider: "polygon", operation: "open_close", params: `{"symbol":"AAPL","date":"2026-02-13"}`, recording: "open_close"},
	{agent: "bob", provider: "polygon", operation: "financials", params: `{"ticker":"AAPL","timeframe":"annual","limit":1}`, recording: "financials"},
	{agent: "alice", provider: "polygon", operation: "snapshots", params: `{"symbols":"AAPL,ZZZZ"}`, recording: "snapshots"},
	{agent: "bob", provider: "polygon", operation: "options_flow", params: `{"symbol":"O:AAPL261218C00250000","from":"2026-02-09","to":"2026-02-13"}`, recording: "options_flow"},
}

func sceneDown(ctx context.Context, s *stage) error {
	s.down = time.Now()
	s.upstream["polygon"].SetDown(true)
	s.say("   polygon is off the network. alice and bob ask it %d things all the same.\n", len(duringOutage))
	for _, r := range duringOutage {
		id, err := s.ask(ctx, r)
		if err != nil {
			return err
		}
		s.parked = append(s.parked, id)
	}
	err := s.until(ctx, patience, "polygon's circuit opens", func() (bool, error) { return s.circuit("polygon") != circuit.Closed, nil })
	if err != nil {
		return err
	}
	s.say("   After %s the circuit opens: %s.\n", seconds(time.Since(s.down)), s.board.Provider("polygon", time.Now()).Circuit.Why)
	s.say("   From now on polygon is not called, but for a probe every %s.\n", seconds(demoCircuitOpen))
	err = s.until(ctx, 15*time.Second, "all are told why they wait", func() (bool, error) {
		return !slices.ContainsFunc(s.parked, func(id fetchworker.Identity) bool { return !s.told(id, fetchworker.ReasonCircuitOpen) }), nil
	})
	if err != nil {
		return err
	}
	s.say("   After %s all %d have been told: %s, %s.\n", seconds(time.Since(s.down)), len(s.parked), fetchworker.StatusWaiting, fetchworker.ReasonCircuitOpen)
	return nil
}

func sceneUp(ctx context.Context, s *stage) error {
	for _, id := range s.parked {
		if slices.ContainsFunc(s.seen.of(id), func(a fetchworker.Answer) bool { return a.Final }) {
			return fmt.Errorf("%s has a final answer although polygon is down", id)
		}
	}
	s.upstream["polygon"].SetDown(false)
	up := time.Now()
	s.say("   polygon is back after %s. Nobody asks again.\n", seconds(up.Sub(s.down)))
	for i, id := range s.parked {
		a, err := s.final(ctx, id, 25*time.Second)
		if err != nil {
			return err
		}
		if err := s.asRecorded(duringOutage[i], a); err != nil {
			return err
		}
	}
	if state := s.circuit("polygon"); state != circuit.Closed {
		return fmt.Errorf("polygon's circuit is %s after its recovery", state)
	}
	s.say("   After %s a probe has found out, and all %d are answered. None failed.\n", seconds(time.Since(up)), len(s.parked))
	return nil
}

func (s *stage) circuit(provider string) circuit.State {
	return s.board.Provider(provider, time.Now()).Circuit.State
}

// told reports whether a request was told to wait for this reason.
func (s *stage) told(id fetchworker.Identity, reason fetchworker.Reason) bool {
	return slices.ContainsFunc(s.seen.of(id), func(a fetchworker.Answer) bool {
		return a.Status == fetchworker.StatusWaiting && a.Problem.Reason() == reason
	})
}

// fredEach is what fred allows in any second.
const fredEach = 2

func sceneLimit(ctx context.Context, s *stage) error {
	asks := []request{
		{agent: "alice", provider: "fred", operation: "series_info", params: `{"series_id":"GDP"}`, recording: "series_info"},
		{agent: "bob", provider: "fred", operation: "series_tags", params: `{"series_id":"GDP"}`, recording: "series_tags"},
		{agent: "alice", provider: "fred", operation: "vintages", params: `{"series_id":"GDP"}`, recording: "vintages"},
		{agent: "bob", provider: "fred", operation: "category", params: `{"category_id":125}`, recording: "category"},
		{agent: "alice", provider: "fred", operation: "category_children", params: `{"category_id":125}`, recording: "category_children"},
		{agent: "bob", provider: "fred", operation: "releases", params: `{"limit":2}`, recording: "releases"},
		{agent: "alice", provider: "fred", operation: "release_dates", params: `{"release_id":10}`, recording: "release_dates"},
		{agent: "bob", provider: "fred", operation: "search", params: `{"search_text":"domestic product","limit":2}`, recording: "search"},
	}
	s.say("   fred allows %d calls a second; it is asked %d things at once.\n", fredEach, len(asks))
	fred := s.upstream["fred"]
	begun := time.Now()
	ids := make([]fetchworker.Identity, len(asks))
	for i, r := range asks {
		var err error
		if ids[i], err = s.ask(ctx, r); err != nil {
			return err
		}
	}
	for i, id := range ids {
		a, err := s.final(ctx, id, 20*time.Second)
		if err != nil {
			return err
		}
		if err := s.asRecorded(asks[i], a); err != nil {
			return err
		}
	}
	most := fred.MaxIn(time.Second)
	if most > fredEach {
		return fmt.Errorf("fred was called %d times within a second", most)
	}
	for _, call := range fred.Calls() {
		if call.Status == http.StatusTooManyRequests {
			return errors.New("fred refused a call as too many")
		}
	}
	s.say("   All are answered after %s. fred counted at most %d calls in any second.\n", seconds(time.Since(begun)), most)
	return nil
}
