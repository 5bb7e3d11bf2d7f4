package deploy_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/prometheus/promql/parser"
)

// TestEveryMetricThatIsShownExists looks for each name in the code, so that a
// renamed metric cannot leave an empty panel or an alert that never fires.
func TestEveryMetricThatIsShownExists(t *testing.T) {
	named := map[string]string{}
	for name, panels := range dashboards(t) {
		ids := map[int]bool{}
		for _, p := range panels {
			if ids[p.ID] {
				t.Errorf("%s: two panels are number %d", name, p.ID)
			}
			ids[p.ID] = true
			for _, target := range p.Targets {
				collect(t, strings.NewReplacer("$__rate_interval", "1m").Replace(target.Expr), name+" "+p.Title, named)
			}
		}
	}
	for _, r := range alerts(t, memory{}).rules {
		collect(t, r.Expr, r.Alert, named)
	}
	code, varz := sources(t), varz(t)
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if strings.HasPrefix(name, exporterPrefix) {
			if !varz[name] {
				t.Errorf("%s asks for %s, which NATS does not tell", named[name], name)
			}
			continue
		}
		base := regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(name, "")
		if name != "up" && !strings.Contains(code, `"`+name+`"`) && !strings.Contains(code, `"`+base+`"`) {
			t.Errorf("%s asks for %s, which nothing tells", named[name], name)
		}
	}
	for _, contract := range []string{
		"provider_requests_total", "provider_latency_seconds_bucket", "provider_errors_total", "circuit_breaker_state", "dlq_size",
		"rate_limit_hits_total", "rate_limit_429_total", "bandwidth_used_bytes", "bandwidth_remaining_pct",
	} {
		if named[contract] == "" {
			t.Errorf("%s is on no dashboard", contract)
		}
	}
}

// exporterPrefix is what NATS' exporter puts before the name of a number that
// a server tells under /varz; names within names are joined with _.
const exporterPrefix = "gnatsd_varz_"

// varz are the numbers that a server with JetStream tells.
func varz(t *testing.T) map[string]bool {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.Shutdown()
	told, err := s.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	var walk func(prefix string, of map[string]any)
	walk = func(prefix string, of map[string]any) {
		for name, v := range of {
			switch v := v.(type) {
			case float64:
				names[prefix+name] = true
			case map[string]any:
				walk(prefix+name+"_", v)
			}
		}
	}
	walk(exporterPrefix, tree)
	return names
}

// collect notes the metrics that an expression asks for.
func collect(t *testing.T, expr, where string, into map[string]string) {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			into[selector.Name] = where
		}
		return nil
	})
}

// sources is all code that is not a test.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			content, err := os.ReadFile(path)
			all.Write(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
