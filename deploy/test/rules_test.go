package deploy_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
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
			var load strings.Builder
			fmt.Fprintf(&load, "load %s\n", test.Interval)
			for _, s := range test.Series {
				fmt.Fprintf(&load, "  %s %s\n", s.Series, s.Values)
			}
			suite, err := promqltest.NewLazyLoader(load.String(), promqltest.LazyLoaderOpts{EnableAtModifier: true, EnableNegativeOffset: true})
			if err != nil {
				t.Fatal(err)
			}
			defer suite.Close()
			suite.SubqueryInterval = time.Duration(file.Interval)
			group := alerts(t, &rules.ManagerOptions{
				QueryFunc:    rules.EngineQueryFunc(suite.QueryEngine(), suite.Storage()),
				AppendableV2: suite.Storage(),
			}, time.Duration(file.Interval))

			var last time.Duration
			for _, a := range test.Alerts {
				last = max(last, time.Duration(a.At))
			}
			start := time.Unix(0, 0).UTC()
			for at := time.Duration(0); at <= last; at += time.Duration(file.Interval) {
				suite.WithSamplesTill(start.Add(at), func(err error) {
					if err != nil {
						t.Fatal(err)
					}
					group.Eval(suite.Context(), start.Add(at))
				})
				firing := firing(t, group)
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
	for _, rule := range alerts(t, &rules.ManagerOptions{}, time.Minute).Rules() {
		if !tested[rule.Name()] {
			t.Errorf("nothing shows that %s ever fires", rule.Name())
		}
		if !strings.Contains(read(t, "docs/operations.md"), "### "+rule.Name()+"\n") {
			t.Errorf("docs/operations.md does not say what to do about %s", rule.Name())
		}
	}
}

// alerts is the group of alert rules that compose provisions.
func alerts(t *testing.T, options *rules.ManagerOptions, interval time.Duration) *rules.Group {
	t.Helper()
	options.Context = context.Background()
	options.NotifyFunc = func(context.Context, string, ...*rules.Alert) {}
	options.Logger = promslog.NewNopLogger()
	options.Parser = parser.NewParser(parser.Options{})
	groups, errs := rules.NewManager(options).LoadGroups(interval, labels.EmptyLabels(), "", nil, false, alertsFile)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if len(groups) != 1 {
		t.Fatalf("%d groups", len(groups))
	}
	for _, group := range groups {
		for _, rule := range group.Rules() {
			rule.(*rules.AlertingRule).SetRestored(true)
		}
		return group
	}
	return nil
}

// firing are the labels of the alerts that fire, by the alert's name.
func firing(t *testing.T, group *rules.Group) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, r := range group.Rules() {
		if err := r.LastError(); err != nil {
			t.Fatalf("%s: %v", r.Name(), err)
		}
		for _, a := range r.(*rules.AlertingRule).ActiveAlerts() {
			if a.State == rules.StateFiring {
				all[r.Name()] = append(all[r.Name()], a.Labels.String())
			}
		}
		slices.Sort(all[r.Name()])
	}
	return all
}
