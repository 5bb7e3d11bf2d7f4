package deploy_test

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// Prometheus' own language and rules, over samples in memory: its whole server
// would bring every cloud's SDK along.

func newEngine() *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: 1_000_000, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{}),
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
	})
}

// memory holds samples by series.
type memory map[uint64]*series

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

// sample is a value at a time in milliseconds.
type sample struct {
	t int64
	v float64
}

func (s sample) ST() int64                     { return 0 }
func (s sample) T() int64                      { return s.t }
func (s sample) F() float64                    { return s.v }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

func (m memory) add(l labels.Labels, at time.Time, value float64) {
	s := m[l.Hash()]
	if s == nil {
		s = &series{labels: l}
		m[l.Hash()] = s
	}
	s.samples = append(s.samples, sample{at.UnixMilli(), value})
}

// Querier looks at what lies between two times.
func (m memory) Querier(from, to int64) (storage.Querier, error) { return &querier{m, from, to}, nil }

type querier struct {
	memory
	from, to int64
}

// Select finds the series that match.
func (q *querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	set := &found{at: -1}
	for _, s := range q.memory {
		if slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
			continue
		}
		first := sort.Search(len(s.samples), func(i int) bool { return s.samples[i].T() >= q.from })
		last := sort.Search(len(s.samples), func(i int) bool { return s.samples[i].T() > q.to })
		if first < last {
			set.all = append(set.all, storage.NewListSeries(s.labels, s.samples[first:last]))
		}
	}
	slices.SortFunc(set.all, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return set
}

func (q *querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (q *querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (q *querier) Close() error { return nil }

// found are the series of a look.
type found struct {
	all []storage.Series
	at  int
}

func (f *found) Next() bool                        { f.at++; return f.at < len(f.all) }
func (f *found) At() storage.Series                { return f.all[f.at] }
func (f *found) Err() error                        { return nil }
func (f *found) Warnings() annotations.Annotations { return nil }

// group is the group of alert rules that compose provisions.
type group struct {
	rules  []rulefmt.Rule
	engine *promql.Engine
	memory memory
	active []map[string]time.Time // by rule: since when an alert has been there, by its labels
	fires  map[string][]string
}

// alerts reads the rules, as Prometheus does, to run them over some samples.
func alerts(t *testing.T, m memory) *group {
	t.Helper()
	groups, errs := rulefmt.ParseFile(alertsFile, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if len(groups.Groups) != 1 {
		t.Fatalf("%d groups", len(groups.Groups))
	}
	g := &group{rules: groups.Groups[0].Rules, engine: newEngine(), memory: m}
	for _, rule := range g.rules {
		if rule.Alert == "" || rule.KeepFiringFor != 0 {
			t.Fatalf("%+v: only what is evaluated here may be used", rule)
		}
		g.active = append(g.active, map[string]time.Time{})
	}
	return g
}

// eval evaluates every rule once.
func (g *group) eval(t *testing.T, at time.Time) {
	t.Helper()
	g.fires = map[string][]string{}
	for i, rule := range g.rules {
		query, err := g.engine.NewInstantQuery(t.Context(), g.memory, nil, rule.Expr, at)
		if err != nil {
			t.Fatalf("%s: %v", rule.Alert, err)
		}
		vector, err := query.Exec(t.Context()).Vector()
		if err != nil {
			t.Fatalf("%s: %v", rule.Alert, err)
		}
		now := map[string]time.Time{}
		for _, s := range vector {
			b := labels.NewBuilder(s.Metric).Del(model.MetricNameLabel).Set(model.AlertNameLabel, rule.Alert)
			for _, name := range slices.Sorted(maps.Keys(rule.Labels)) {
				b.Set(name, rule.Labels[name])
			}
			key := b.Labels().String()
			since, was := g.active[i][key]
			if !was {
				since = at
			}
			now[key] = since
			if at.Sub(since) >= time.Duration(rule.For) {
				g.fires[rule.Alert] = append(g.fires[rule.Alert], key)
			}
		}
		query.Close()
		g.active[i] = now
		slices.Sort(g.fires[rule.Alert])
	}
}
