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
	}
}

// TestEveryAlertHasAChapter: whoever is woken finds in the runbook what is
// seen, why, and what to do, and the alert itself leads there.
func TestEveryAlertHasAChapter(t *testing.T) {
	_, text, ok := strings.Cut(read(t, "docs/runbook.md"), "\n## The alerts\n")
	if !ok {
		t.Fatal("the runbook has no chapter of alerts")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	chapters := map[string]string{}
	for _, chapter := range strings.Split(text, "\n### ")[1:] {
		name, says, _ := strings.Cut(chapter, "\n")
		chapters[name] = says
	}
	rules := alerts(t, memory{}).rules
	for _, rule := range rules {
		chapter, there := chapters[rule.Alert]
		delete(chapters, rule.Alert)
		if !there {
			t.Errorf("docs/runbook.md has no chapter %s", rule.Alert)
			continue
		}
		for _, part := range []string{"- *Seen:* ", "- *Why:* ", "- *Do:* "} {
			if strings.Count(chapter, part) != 1 {
				t.Errorf("%s: its chapter needs one %q", rule.Alert, part)
			}
		}
		if want := "docs/runbook.md#" + strings.ToLower(rule.Alert); rule.Annotations["runbook"] != want {
			t.Errorf("%s leads to %q, want %q", rule.Alert, rule.Annotations["runbook"], want)
		}
	}
	for name := range chapters {
		t.Errorf("docs/runbook.md has a chapter %s, which no alert is", name)
	}
	if len(rules) == 0 {
		t.Error("no alerts are found")
	}
}
