package providers_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/providers"
)

func TestDefaults(t *testing.T) {
	set := load(t, nil)
	if configured := set.Configured(); len(configured) != 0 {
		t.Errorf("configured without a key: %v", configured)
	}
	for name, want := range map[string]struct {
		base    string
		timeout time.Duration
		bytes   int64
	}{
		"fmp":     {"https://financialmodelingprep.com/api/v3", 5 * time.Second, 50 << 30},
		"polygon": {"https://api.polygon.io", 5 * time.Second, 0},
		"fred":    {"https://api.stlouisfed.org/fred", 10 * time.Second, 0},
		"newsapi": {"https://newsapi.org/v2", 3 * time.Second, 0},
	} {
		p, known := set.Provider(name)
		if !known || !set.Known(name) {
			t.Fatalf("%s is not known", name)
		}
		if p.BaseURL != want.base || p.Timeout != want.timeout || p.BytesPerMonth != want.bytes {
			t.Errorf("%s: %s %v %d", name, p.BaseURL, p.Timeout, p.BytesPerMonth)
		}
		for _, op := range p.Operations {
			if op.Fresh == 0 || op.Stale == 0 || op.Format == "" || op.Name == "" {
				t.Errorf("%s %s is not prepared: %+v", name, op.Name, op)
			}
		}
	}
	if set.Known("bloomberg") {
		t.Error("a provider that nobody has written is known")
	}
}

func TestEnvironment(t *testing.T) {
	set := load(t, map[string]string{
		"NEWS_API_KEY": key + "\n", "FRED_API_KEY": " ", "NEWS_BASE_URL": "http://127.0.0.1:1/v2/", "NEWS_TIMEOUT_SECONDS": "0.25",
		"NEWS_BANDWIDTH_LIMIT_GB": "1.5", "FMP_BANDWIDTH_LIMIT_GB": "0",
	})
	if configured := set.Configured(); len(configured) != 1 || configured[0].Name != "newsapi" {
		t.Fatalf("configured: %v", configured)
	}
	p, _ := set.Provider("newsapi")
	if p.Timeout != 250*time.Millisecond || p.BytesPerMonth != 3<<29 {
		t.Errorf("timeout %v, %d bytes", p.Timeout, p.BytesPerMonth)
	}
	if got := plan(t, p, "sources", "").Target(); got != "/v2/top-headlines/sources" {
		t.Errorf("a slash at the end of the base URL: %s", got)
	}
	if fmp, _ := set.Provider("fmp"); fmp.BytesPerMonth != 0 {
		t.Errorf("0 GB is no budget, got %d", fmp.BytesPerMonth)
	}
}

func TestEnvironmentMistakes(t *testing.T) {
	for name, values := range map[string][]string{
		"FMP_TIMEOUT_SECONDS":         {"x", "0", "-1", "NaN", "Inf", "1e9", "5s"},
		"POLYGON_BANDWIDTH_LIMIT_GB":  {"x", "-1", "50GB", "NaN"},
		"FRED_REQUESTS_PER_MINUTE":    {"x", "-1", "1.5", "99999999"},
		"NEWS_TIER":                   {"gold"},
		"NEWS_BASE_URL":               {"newsapi.org", "ftp://newsapi.org", "https://user:" + key + "@newsapi.org", "https://newsapi.org?apiKey=" + key, "http://%zz/" + key},
		"POLYGON_REQUESTS_PER_MINUTE": {"many"},
		"FRED_API_KEY":                {key + "\n" + key, key + "\x00" + key},
	} {
		for _, value := range values {
			_, err := providers.Load(env(map[string]string{name: value}))
			if err == nil || !strings.Contains(err.Error(), name+": ") || strings.Contains(err.Error(), key) {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
	}
}

func TestRights(t *testing.T) {
	const profiles = "agents:\n  alice: [fundamentals]\n  bob: export\n  carol: ['*']\ndefault: [options_data]\n"
	for _, test := range []struct {
		profiles, tier, agent, provider, operation string
		use                                        string
		want                                       string // the right that is missing, "" if none
	}{
		{"", "", "alice", "fmp", "quote", "", ""},
		{"", "", "alice", "fmp", "profile", "", ""},
		{"", "", "alice", "fmp", "quote", "export", "export"},
		{"", "", "alice", "fmp", "quote", "display", ""},
		{"", "", "alice", "newsapi", "headlines", "export", "export"},
		{profiles, "", "alice", "fmp", "profile", "", ""},
		{profiles, "", "alice", "fmp", "get", "", ""},
		{profiles, "", "alice", "polygon", "options_chain", "", "options_data"},
		{profiles, "", "alice", "polygon", "get", "", "options_data"},
		{profiles, "", "alice", "fmp", "quote", "export", "export"},
		{profiles, "", "bob", "fmp", "quote", "export", ""},
		{profiles, "", "bob", "fmp", "profile", "", "fundamentals"},
		{profiles, "", "bob", "fmp", "get", "", "fundamentals"},
		{profiles, "", "carol", "polygon", "options_flow", "export", ""},
		{profiles, "", "dave", "polygon", "options_flow", "", ""},
		{profiles, "", "dave", "fmp", "profile", "", "fundamentals"},
		{profiles, "", "dave", "fmp", "quote", "", ""},
		// What the developer tier forbids, no profile grants.
		{profiles, "", "bob", "newsapi", "headlines", "export", "export"},
		{profiles, "developer", "carol", "newsapi", "headlines", "export", "export"},
		{profiles, "business", "carol", "newsapi", "headlines", "export", ""},
	} {
		vars := map[string]string{"NEWS_TIER": test.tier}
		if test.profiles != "" {
			vars["FETCH_RIGHTS"] = write(t, test.profiles)
		}
		set := load(t, vars)
		p, _ := set.Provider(test.provider)
		var use []string
		if test.use != "" {
			use = []string{test.use}
		}
		err := set.Rights.Check(test.agent, p, p.Operations[test.operation], use)
		var missing *providers.RightsError
		got := ""
		if errors.As(err, &missing) {
			got = missing.Right
		}
		if got != test.want || (err == nil) != (test.want == "") {
			t.Errorf("%s %s %s as %q: %v, want %q", test.agent, test.provider, test.operation, test.use, err, test.want)
		}
	}

	set := load(t, map[string]string{"FETCH_RIGHTS": write(t, profiles)})
	p, _ := set.Provider("fmp")
	p.Rights = []string{"vip"} // all of its operations need it, whatever they need besides
	for _, operation := range p.Names() {
		for agent, may := range map[string]bool{"alice": false, "bob": false, "carol": true, "dave": false} {
			if err := set.Rights.Check(agent, p, p.Operations[operation], nil); (err == nil) != may {
				t.Errorf("%s, %s: %v", agent, operation, err)
			}
		}
	}
	p, _ = set.Provider("newsapi")
	if err := set.Rights.Check("carol", p, p.Operations["sources"], []string{"export"}); err == nil || err.Error() != `newsapi forbids "export" to everyone on the developer tier` {
		t.Error(err)
	}
	if err := set.Rights.Check("alice", p, p.Operations["sources"], []string{"display"}); err == nil || err.Error() != `agent "alice" does not hold the right "display", needed for newsapi sources` {
		t.Error(err)
	}
}

func TestRightsMistakes(t *testing.T) {
	for content, want := range map[string]string{
		"agents: [alice]\n":                 ":1: agents: expected fields (name: value), got a list",
		"agents:\n  Alice: [export]\n":      ":2: agent \"Alice\": expected a name",
		"agents:\n  alice: {export: yes}\n": ":2: agents.alice: expected a text, got fields",
		"agents:\n  alice:\n":               ":2: agents.alice: expected a list of rights, [] for none",
		"default: [ok, 'sp ace']\n":         ":1: default: right \"sp ace\": expected",
		"agents: {}\n---\nagents: {}\n":     ":3: rights: expected one document, and nothing behind ---",
		"people: {}\n":                      ":1: rights: unknown field \"people\", expected one of agents, default",
		"\t":                                "yaml",
	} {
		_, err := providers.Load(env(map[string]string{"FETCH_RIGHTS": write(t, content)}))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
}
