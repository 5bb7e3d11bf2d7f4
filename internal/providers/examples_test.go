package providers_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// example starts servers for the hosts of an example's catalogue, which play
// what is recorded beside it, and loads it.
func example(t *testing.T, name string, vars map[string]string, hosts ...string) (*providers.Set, *providertest.Server) {
	t.Helper()
	exchanges, err := providertest.ExchangesIn(os.DirFS("../../examples"), name)
	if err != nil || len(exchanges) == 0 {
		t.Fatalf("%d exchanges, %v", len(exchanges), err)
	}
	catalogue, err := os.ReadFile("../../examples/" + name + "/catalog.yaml")
	if err != nil {
		t.Fatal(err)
	}
	servers := make([]*providertest.Server, len(hosts))
	for i, host := range hosts {
		servers[i] = providertest.Pipe(host, exchanges...)
		t.Cleanup(servers[i].Close)
	}
	// Played without TLS; nothing else changes.
	vars["FETCH_CATALOG"] = write(t, strings.ReplaceAll(string(catalogue), "https://", "http://"))
	return load(t, vars, providers.WithDial(providertest.DialHosts(servers...))), servers[0]
}

// The worked examples: each API is described by its catalogue alone, and what
// it was recorded to send is what it is.
func TestWorkedExamples(t *testing.T) {
	for _, test := range []struct {
		name  string
		vars  map[string]string
		hosts []string
		calls []string // "provider operation params [recording] => class code detail…"
	}{
		{"edgar", map[string]string{"EDGAR_CONTACT": "Example Org admin@example.org"}, []string{"data.sec.gov", "www.sec.gov"}, []string{
			`edgar submissions {"cik":"0000320193"} => ok`,
			`edgar-www tickers {} => ok`,
			`edgar submissions {"cik":"0000000000"} error_unknown => permanent not_found`,
			`edgar submissions {"cik":"0000320193"} error_rate => transient foreign`,
			`edgar submissions {"cik":320193} => refused write "320193"`,
		}},
		{"github", map[string]string{"GITHUB_API_KEY": "ghp_0123456789"}, []string{"api.github.com"}, []string{
			`github issues {"owner":"nats-io","repo":"nats-server","state":"open","per_page":1} => ok next {"owner":"nats-io","page":"2","per_page":"1","repo":"nats-server","state":"open"}`,
			`github repository {"owner":"nats-io","repo":"nats-server"} => ok`,
			`github repository {"owner":"nats-io","repo":"no-such-thing"} error_not_found => permanent not_found`,
			`github repository {"owner":"nats-io","repo":"nats-server"} error_rate => throttled wait 10m0s`,
		}},
		{"alphavantage", map[string]string{"ALPHAVANTAGE_API_KEY": "demokey0123"}, []string{"www.alphavantage.co"}, []string{
			`alphavantage quote {"symbol":"IBM"} => ok`,
			`alphavantage listing {} => ok`,
			`alphavantage quote {"symbol":"IBM"} error_note => throttled`,
			`alphavantage quote {"symbol":"IBM"} error_information => throttled`,
			`alphavantage daily {"symbol":"IBM","outputsize":"full"} error_premium => permanent not_entitled`,
			`alphavantage quote {"symbol":"NOPE"} error_symbol => permanent not_found`,
			`alphavantage quote {"symbol":"IBM"} error_key => unauthorized`,
		}},
		{"spotify", map[string]string{"SPOTIFY_CLIENT_ID": "client-id-01", "SPOTIFY_CLIENT_SECRET": "client-secret-01"}, []string{"api.spotify.com", "accounts.spotify.com"}, []string{
			`spotify artist {"id":"4Z8W4fKeB5YxbusRsdQVPb"} => ok`,
			`spotify search {"q":"radiohead","type":["artist","album"],"limit":1} => ok next {"limit":"1","offset":"1","q":"radiohead","type":"artist,album"}`,
			`spotify artist {"id":"4Z8W4fKeB5YxbusRsdQVPb"} error_token => unauthorized`,
			`spotify artist {"id":"0000000000000000000000"} error_id => permanent not_found`,
		}},
		{"countries", map[string]string{}, []string{"countries.trevorblades.com"}, []string{
			`countries country {"code":"NO"} => ok`,
			`countries by_continent {"continents":["NA","AN"]} => ok`,
			`countries country {"code":"XX"} error_unknown => permanent not_found`,
			`countries country {"code":"NO"} error_query => permanent rejected`,
		}},
		{"github-statistics", map[string]string{"GITHUB_STATISTICS_API_KEY": "ghp_0123456789"}, []string{"api.github.com"}, []string{
			`github-statistics commit_activity {"owner":"nats-io","repo":"nats-server"} error_pending => pending`,
			`github-statistics commit_activity {"owner":"nats-io","repo":"nats-server"} => ok`,
			`github-statistics contributors {"owner":"nats-io","repo":"empty"} error_empty => ok`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			set, server := example(t, test.name, test.vars, test.hosts...)
			for _, line := range test.calls {
				asked, want, _ := strings.Cut(line, " => ")
				name, asked, _ := strings.Cut(asked, " ")
				operation, asked, _ := strings.Cut(asked, " ")
				params, recording := asked, ""
				if end := strings.LastIndex(asked, "}"); end+1 < len(asked) {
					params, recording = asked[:end+1], asked[end+2:]
				}
				p, ok := set.Provider(name)
				if !ok || !p.Configured() {
					t.Fatalf("%s is not configured", name)
				}
				call, err := p.Plan(operation, []byte(params))
				if err != nil {
					if !strings.HasPrefix(want, "refused") || !strings.Contains(err.Error(), strings.TrimPrefix(want, "refused ")) {
						t.Errorf("%s: %v", line, err)
					}
					continue
				}
				if recording != "" {
					server.Script(server.Named(recording))
				}
				r := p.Do(t.Context(), call, providers.Options{})
				got := fmt.Sprintf("%s %s %s next %s wait %v", r.Class, r.Code, r.ErrorType, r.Next, r.RetryAfter)
				for _, part := range strings.Split(want, " ") {
					if !strings.Contains(got, part) {
						t.Errorf("%s: %s (%s)", line, got, r.Detail)
					}
				}
				if strings.Contains(r.Detail+fmt.Sprint(r.Err), "secret") {
					t.Errorf("%s: a secret is told: %s", line, r.Detail)
				}
			}
		})
	}
}

// A token is got once and used until shortly before its end; one that the API
// refuses is replaced.
func TestTokensAreRefreshed(t *testing.T) {
	set, api := example(t, "spotify", map[string]string{"SPOTIFY_CLIENT_ID": "id-0123", "SPOTIFY_CLIENT_SECRET": "secret-0123"}, "api.spotify.com", "accounts.spotify.com")
	p, _ := set.Provider("spotify")
	artist := plan(t, p, "artist", `{"id":"4Z8W4fKeB5YxbusRsdQVPb"}`)
	for range 3 {
		if r := p.Do(t.Context(), artist, providers.Options{}); r.Class != wire.ClassOK {
			t.Fatalf("%s: %s", r.Class, r.Detail)
		}
	}
	for _, call := range api.Calls() {
		if got := call.Header.Get("Authorization"); got != "Bearer BQDexampleToken0001" {
			t.Errorf("sent %q", got)
		}
	}
	echo := providertest.JSON(200, `{"echo":"BQDexampleToken0001 and secret-0123 and id-0123"}`)
	api.Script(echo)
	if r := p.Do(t.Context(), artist, providers.Options{}); !r.Redacted || strings.Contains(string(r.Body), "0001") || strings.Contains(string(r.Body), "secret") {
		t.Errorf("%s", r.Body)
	}
}

// Every way to send keys, together where an API wants several.
func TestWaysToSendKeys(t *testing.T) {
	server := providertest.Pipe("x.test")
	defer server.Close()
	set := load(t, map[string]string{
		"FETCH_CATALOG": write(t, `
providers:
  token:  {base_url: http://x.test, auth: {header: Authorization, prefix: 'Token '}, operations: {y: {path: /y}}}
  basic:  {base_url: http://x.test, auth: {basic: {user_env: BASIC_USER, password_env: BASIC_PASSWORD}}, operations: {y: {path: /y}}}
  pair:
    base_url: http://x.test
    auth: [{header: X-Key-Id}, {header: X-Key-Secret, env: PAIR_SECRET}]
    secrets: {tenant: PAIR_TENANT}
    headers: {X-Tenant: 'org/${tenant}'}
    query: {t: '${tenant}'}
    operations: {y: {path: /y, headers: {X-More: '${tenant}!'}, params: {q: {}}}}
  named:  {base_url: http://x.test, auth: {bearer: OTHER_TOKEN}, operations: {y: {path: /y}}}
`),
		"TOKEN_API_KEY": "token-key-01", "BASIC_USER": "user-01", "BASIC_PASSWORD": "password-01",
		"PAIR_API_KEY": "pair-id-01", "PAIR_SECRET": "pair-secret-01", "PAIR_TENANT": "tenant-01", "OTHER_TOKEN": "other-01",
	}, providers.WithDial(server.DialContext))
	for name, want := range map[string]map[string]string{
		"token": {"Authorization": "Token token-key-01"},
		"basic": {"Authorization": "Basic dXNlci0wMTpwYXNzd29yZC0wMQ=="},
		"pair":  {"X-Key-Id": "pair-id-01", "X-Key-Secret": "pair-secret-01", "X-Tenant": "org/tenant-01", "X-More": "tenant-01!"},
		"named": {"Authorization": "Bearer other-01"},
	} {
		p, _ := set.Provider(name)
		params := "{}"
		if name == "pair" {
			params = `{"q":"${tenant}"}` // an agent's text is no secret's name
		}
		server.Forget()
		server.Script(providertest.JSON(200, `{"a":"pair-secret-01 tenant-01 dXNlci0wMTpwYXNzd29yZC0wMQ== password-01"}`))
		call := plan(t, p, "y", params)
		r := p.Do(t.Context(), call, providers.Options{})
		sent := server.Calls()[0]
		for header, value := range want {
			if got := sent.Header.Get(header); got != value {
				t.Errorf("%s: %s is %q, want %q", name, header, got, value)
			}
		}
		if name == "pair" {
			if sent.RawTarget != "/y?q=%24%7Btenant%7D&t=tenant-01" {
				t.Errorf("asked for %s", sent.RawTarget)
			}
			if strings.Contains(call.Target()+p.URL(call).String(), "tenant-01") || strings.Contains(string(r.Body), "tenant-01") || strings.Contains(string(r.Body), "pair-secret") {
				t.Errorf("a secret is shown: %s %s", call.Target(), r.Body)
			}
		}
	}
}

// A key in a file is exchanged without a restart: the next call has the new
// one, none is made without one, and the old one stays redacted.
func TestAKeyFileIsExchanged(t *testing.T) {
	server := providertest.Pipe("x.test")
	defer server.Close()
	file := write(t, "old-key-0123\n")
	set := load(t, map[string]string{"FMP_API_KEY_FILE": file, "FMP_BASE_URL": "http://x.test/stable"}, providers.WithDial(server.DialContext))
	p, _ := set.Provider("fmp")
	call := plan(t, p, "quote", quote)
	ask := func() string {
		server.Forget()
		p.Do(t.Context(), call, providers.Options{})
		return server.Calls()[0].Header.Get("apikey")
	}
	if got := ask(); got != "old-key-0123" {
		t.Errorf("sent %q", got)
	}
	for content, want := range map[string]string{"": "old-key-0123", " \n": "old-key-0123", "half-a-\x00\x00": "old-key-0123", "half\na": "old-key-0123"} { // it is being written
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := ask(); got != want {
			t.Errorf("with %q in the file %q was sent", content, got)
		}
	}
	if err := os.WriteFile(file, []byte("new-key-0123"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "new-key-0123" {
		t.Errorf("sent %q after the exchange", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "new-key-0123" {
		t.Errorf("sent %q without a file", got)
	}
	server.Script(providertest.JSON(200, `[{"echo":"old-key-0123 new-key-0123"}]`))
	if r := p.Do(t.Context(), call, providers.Options{}); string(r.Body) != `[{"echo":"REDACTED REDACTED"}]` {
		t.Errorf("%s", r.Body)
	}
	if _, err := providers.Load(env(map[string]string{"FMP_API_KEY_FILE": file, "FMP_API_KEY": "x"})); err == nil || !strings.Contains(err.Error(), "FMP_API_KEY and FMP_API_KEY_FILE") {
		t.Error(err)
	}
	if _, err := providers.Load(env(map[string]string{"FMP_API_KEY_FILE": file})); err == nil || !strings.Contains(err.Error(), "FMP_API_KEY_FILE") {
		t.Error(err)
	}
}

// While many calls are made the file is written over and over: every call has
// one of the keys, and soon after the last exchange all have the last.
func TestAKeyFileIsExchangedUnderLoad(t *testing.T) {
	server := providertest.Pipe("x.test")
	defer server.Close()
	server.Fallback = func(*http.Request) *providertest.Step {
		step := providertest.JSON(200, `[]`)
		return &step
	}
	file := write(t, "key-number-00")
	set := load(t, map[string]string{"FMP_API_KEY_FILE": file, "FMP_BASE_URL": "http://x.test/stable"}, providers.WithDial(server.DialContext))
	p, _ := set.Provider("fmp")
	planned := plan(t, p, "quote", quote)
	stop := make(chan struct{})
	var calling sync.WaitGroup
	for range 4 {
		calling.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					p.Do(t.Context(), planned, providers.Options{})
				}
			}
		})
	}
	var last time.Time
	for i := 1; i <= 20; i++ {
		if err := os.WriteFile(file, fmt.Appendf(nil, "key-number-%02d\n", i), 0o600); err != nil {
			t.Error(err)
		}
		last = time.Now()
		waitFor(t, func() bool { return len(server.Calls()) >= 20*i })
	}
	calls := len(server.Calls())
	waitFor(t, func() bool { return len(server.Calls()) >= calls+50 })
	close(stop)
	calling.Wait()
	for _, call := range server.Calls() {
		key := call.Header.Get("apikey")
		if !strings.HasPrefix(key, "key-number-") || call.At.After(last.Add(2*time.Second)) && key != "key-number-20" || call.Status != 200 {
			t.Fatalf("%v after the last exchange %q was sent, status %d", call.At.Sub(last), key, call.Status)
		}
	}
	server.Forget() // one that began before the last exchange may have been the last to end
	p.Do(t.Context(), planned, providers.Options{})
	if got := server.Calls()[0].Header.Get("apikey"); got != "key-number-20" {
		t.Errorf("the last call sent %q", got)
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("nothing was called for 20 s")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAQuotedKeyIsWarnedOf(t *testing.T) {
	set := load(t, map[string]string{"FMP_API_KEY": `"0123456789"`, "FRED_API_KEY": "'0123456789'", "NEWS_API_KEY": `0"1`})
	if len(set.Warnings) != 2 || !strings.HasPrefix(set.Warnings[0], "FMP_API_KEY: ") || !strings.HasPrefix(set.Warnings[1], "FRED_API_KEY: ") || strings.Contains(fmt.Sprint(set.Warnings), "0123") {
		t.Errorf("%q", set.Warnings)
	}
}

// Lists as APIs want them, numbers within bounds, bodies, and times of their
// own.
func TestWhatOperationsCanSay(t *testing.T) {
	server := providertest.Pipe("x.test")
	defer server.Close()
	set := load(t, map[string]string{"FETCH_CATALOG": write(t, `
providers:
  x:
    base_url: http://x.test
    auth: none
    operations:
      lists:
        path: /lists
        params:
          a: {type: csv, repeat: true}
          b: {type: csv, separator: '|'}
          lat: {type: number, min: -90, max: 90}
          depth: {type: int, min: -5, max: 0}
      form:
        path: /form
        method: POST
        reads_only: true
        body: form
        template: {fixed: 'yes'}
        timeout: 50ms
        params: {q: {at: /query}, page: {type: int}, ids: {type: csv, at: /id, repeat: true}}
      json:
        path: /json
        method: POST
        reads_only: true
        body: json
        template: {filters: [{field: price}], limit: 10}
        params: {n: {type: int, at: /limit}, least: {type: number, at: /filters/0/least}, deep: {at: /a~1b/c}, flag: {type: bool, at: /flag}, list: {type: csv, at: /list}}
`)}, providers.WithDial(server.DialContext))
	p, _ := set.Provider("x")
	for _, test := range []struct{ operation, params, target, sent string }{
		{"lists", `{"a":["1","2"],"b":"3,4","lat":-12.5,"depth":-5}`, "/lists?a=1&a=2&b=3%7C4&depth=-5&lat=-12.5", ""},
		{"lists", `{"lat":90.5}`, "a decimal number from -90 to 90", ""},
		{"lists", `{"depth":1}`, `"depth": expected`, ""},
		{"lists", `{"depth":-6}`, `"depth": expected`, ""},
		{"form", `{"q":"a b&c","page":2,"ids":["x","y"]}`, "/form?page=2", "fixed=yes&id=x&id=y&query=a+b%26c"},
		{"json", `{"n":5,"least":1.50,"deep":"q\"","flag":true,"list":["a","b"]}`, "/json", `{"a/b":{"c":"q\""},"filters":[{"field":"price","least":1.50}],"flag":true,"limit":5,"list":["a","b"]}`},
		{"json", `{}`, "/json", `{"filters":[{"field":"price"}],"limit":10}`},
	} {
		call, err := p.Plan(test.operation, []byte(test.params))
		if err != nil {
			if !strings.Contains(err.Error(), test.target) {
				t.Errorf("%s %s: %v", test.operation, test.params, err)
			}
			continue
		}
		server.Forget()
		server.Script(providertest.JSON(200, `{}`))
		p.Do(t.Context(), call, providers.Options{})
		if got := server.Calls()[0]; got.Target != test.target || string(got.Sent) != test.sent {
			t.Errorf("%s %s: %s %s %s", test.operation, test.params, got.Method, got.Target, got.Sent)
		}
	}
	if schema := string(p.Operations["lists"].Schema()); !strings.Contains(schema, `"minimum":-90,"maximum":90`) || !strings.Contains(schema, `"minimum":-5,"maximum":0`) {
		t.Errorf("bounds in %s", schema)
	}
	one, other := plan(t, p, "json", `{"n":5}`), plan(t, p, "json", `{"n":6}`)
	if one.Key == other.Key || one.Target() != other.Target() {
		t.Errorf("different bodies share the key %s", one.Key)
	}
	server.SetLatency(200 * time.Millisecond)
	if r := p.Do(t.Context(), plan(t, p, "form", `{}`), providers.Options{}); r.ErrorType != "timeout" {
		t.Errorf("after an operation's own time-out: %s %s", r.ErrorType, r.Detail)
	}
}
