package providertest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func exchanges(t *testing.T, provider string) []*call.Exchange {
	t.Helper()
	all, err := providertest.Exchanges(provider)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// There is enough recorded for a demonstration, and each file is read back
// as it was written.
func TestExchanges(t *testing.T) {
	total := 0
	for _, provider := range []string{"fmp", "polygon", "fred", "newsapi"} {
		large := 0
		for _, e := range exchanges(t, provider) {
			total++
			large = max(large, len(e.Body))
			var b strings.Builder
			if _, err := e.WriteTo(&b); err != nil {
				t.Fatal(err)
			}
			again, err := call.ParseExchange(e.Name, []byte(b.String()))
			if err != nil || again.Target != e.Target || again.Status != e.Status || string(again.Body) != string(e.Body) {
				t.Errorf("%s/%s: %v", provider, e.Name, err)
			}
			for _, word := range []string{"apikey=", "api_key=", "apiKey=SECRET"} {
				if strings.Contains(strings.ToLower(e.Target), word) {
					t.Errorf("%s/%s has a key in its request", provider, e.Name)
				}
			}
		}
		if large < 60_000 {
			t.Errorf("%s has no large body, the largest is %d bytes", provider, large)
		}
	}
	if total < 60 {
		t.Errorf("%d exchanges", total)
	}
	if none, err := providertest.Exchanges("nobody"); err != nil || len(none) != 0 {
		t.Errorf("exchanges of nobody: %v, %v", none, err)
	}
}

// The same server answers over a port and over pipes.
func TestServes(t *testing.T) {
	listening, err := providertest.Listen(exchanges(t, "newsapi")...)
	if err != nil {
		t.Fatal(err)
	}
	piped := providertest.Pipe("news.test", exchanges(t, "newsapi")...)
	for _, s := range []*providertest.Server{listening, piped} {
		client := &http.Client{Transport: &http.Transport{DialContext: s.DialContext}}
		status, body := get(t, client, s.URL()+"/v2/everything?sortBy=publishedAt&q=ports&apiKey=mine")
		if status != 200 || body != string(s.Named("headlines").Body) {
			t.Errorf("%s: %d %.60s", s.URL(), status, body)
		}
		if status, _ := get(t, client, s.URL()+"/v2/nothing"); status != 404 {
			t.Errorf("%s: what is not recorded is %d", s.URL(), status)
		}
		calls := s.Calls()
		if len(calls) != 2 || calls[0].Target != "/v2/everything?q=ports&sortBy=publishedAt" || !strings.Contains(calls[0].RawTarget, "apiKey=mine") || calls[0].Status != 200 || calls[1].Status != 404 {
			t.Errorf("calls %+v", calls)
		}

		s.SetKey("right")
		if status, body := get(t, client, s.URL()+"/v2/everything?sortBy=publishedAt&q=ports&apiKey=wrong"); status != 401 || !strings.Contains(body, "apiKeyInvalid") {
			t.Errorf("wrong key: %d %s", status, body)
		}
		if status, _ := get(t, client, s.URL()+"/v2/everything?sortBy=publishedAt&q=ports&apiKey=right"); status != 200 {
			t.Errorf("right key: %d", status)
		}
		s.SetKey("")

		s.Script(s.Named("error_rate_limited"), providertest.JSON(503, `{}`), providertest.Step{Latency: time.Millisecond})
		s.Fallback = func(*http.Request) *providertest.Step { step := providertest.JSON(200, `{"made":"up"}`); return &step }
		for _, want := range []int{429, 503, 200} {
			if status, _ := get(t, client, s.URL()+"/v2/made/up"); status != want {
				t.Errorf("scripted %d, got %d", want, status)
			}
		}

		s.Forget()
		s.SetDown(true)
		if _, _, err := request(t, client, s.URL()+"/v2/x"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("down: %v", err)
		}
		if n := len(s.Calls()); n != 0 {
			t.Errorf("%d calls received while down", n)
		}
		s.SetDown(false)
		if status, _ := get(t, client, s.URL()+"/v2/x"); status != 200 {
			t.Errorf("up again: %d", status)
		}
		client.CloseIdleConnections()
		s.Close()
		if _, _, err := request(t, client, s.URL()+"/v2/x"); err == nil {
			t.Error("closed, but answers")
		}
	}
}

func get(t *testing.T, client *http.Client, url string) (status int, body string) {
	t.Helper()
	status, body, err := request(t, client, url)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

func request(t *testing.T, client *http.Client, url string) (status int, body string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	content, err := io.ReadAll(res.Body)
	return res.StatusCode, string(content), errors.Join(err, res.Body.Close())
}

// Several hosts, one clock: calls are counted as a provider's window counts.
func TestMaxInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fmp, fred := providertest.Pipe("fmp.test"), providertest.Pipe("fred.test")
		defer fmp.Close()
		defer fred.Close()
		fmp.SetLatency(time.Second)
		client := &http.Client{Transport: &http.Transport{DialContext: providertest.DialHosts(fmp, fred)}}
		defer client.CloseIdleConnections()
		start := time.Now()
		for range 10 {
			if status, _ := get(t, client, "http://fmp.test/x"); status != 404 {
				t.Fatal(status)
			}
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("ten answers a second late took %v", took)
		}
		for _, test := range []struct {
			window time.Duration
			want   int
		}{{time.Nanosecond, 1}, {time.Second, 1}, {time.Second + 1, 2}, {3 * time.Second, 3}, {time.Hour, 10}} {
			if got := fmp.MaxIn(test.window); got != test.want {
				t.Errorf("in %v: %d calls, want %d", test.window, got, test.want)
			}
		}
		if len(fred.Calls()) != 0 || fred.MaxIn(time.Hour) != 0 {
			t.Error("the other host was called")
		}
		if _, _, err := request(t, client, "http://nobody.test/x"); err == nil || !strings.Contains(err.Error(), "no such host") {
			t.Errorf("unknown host: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := fred.DialContext(ctx, "tcp", "fred.test:80"); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
