package deploy_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

const alertsFile = root + "/deploy/prometheus/alerts.yml"

// ruleTests is what we use of promtool's form of rule tests.
type ruleTests struct {
	Interval model.Duration `yaml:"evaluation_interval"`
	Tests    []struct {
		Name     string         `yaml:"name"`
		Interval model.Duration `yaml:"interval"`
		Series   []struct {
			Series string `yaml:"series"`
			Values string `yaml:"values"`
		} `yaml:"input_series"`
		Alerts []struct {
			At    model.Duration `yaml:"eval_time"`
			Alert string         `yaml:"alertname"`
			Want  []struct {
				Labels map[string]string `yaml:"exp_labels"`
			} `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	} `yaml:"tests"`
}

// TestAlertRules runs alerts_test.yml as promtool does, but for annotations.
func TestAlertRules(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/alerts_test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file ruleTests
	if err := yaml.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	tested := map[string]bool{}
	for _, test := range file.Tests {
		t.Run(test.Name, func(t *testing.T) {
			m := memory{}
			start := time.Unix(0, 0).UTC()
			for _, s := range test.Series {
				l, values, err := parser.NewParser(parser.Options{}).ParseSeriesDesc(s.Series + " " + s.Values)
				if err != nil {
					t.Fatal(err)
				}
				for i, v := range values {
					if !v.Omitted {
						m.add(l, start.Add(time.Duration(i)*time.Duration(test.Interval)), v.Value)
					}
				}
			}
			group := alerts(t, m)

			var last time.Duration
			for _, a := range test.Alerts {
				last = max(last, time.Duration(a.At))
			}
			for at := time.Duration(0); at <= last; at += time.Duration(file.Interval) {
				group.eval(t, start.Add(at))
				firing := group.fires
				for _, a := range test.Alerts {
					if time.Duration(a.At) != at {
						continue
					}
					var want []string
					for _, w := range a.Want {
						l := map[string]string{labels.AlertName: a.Alert}
						maps.Copy(l, w.Labels)
						want = append(want, labels.FromMap(l).String())
						tested[a.Alert] = true
					}
					slices.Sort(want)
					if got := firing[a.Alert]; !slices.Equal(got, want) {
						t.Errorf("%s after %v: firing %v, want %v", a.Alert, at, got, want)
					}
				}
			}
		})
	}
	for _, rule := range alerts(t, memory{}).rules {
		if !tested[rule.Alert] {
			t.Errorf("nothing shows that %s ever fires", rule.Alert)
		}
		if !strings.Contains(read(t, "docs/operations.md"), "### "+rule.Alert+"\n") {
			t.Errorf("docs/operations.md does not say what to do about %s", rule.Alert)
		}
	}
}
