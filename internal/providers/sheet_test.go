package providers

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	yaml "go.yaml.in/yaml/v3"

	"fetchworker/internal/providers/catalogue"
	"fetchworker/internal/providers/sheet"
)

// What TestSheetsRoundTrip needs: the writer that belongs to the catalogue's
// reader. It is in a test because the program only reads.

// The FRED of this file, written in YAML, is the FRED of the Go data sheet.
func TestFREDFromYAML(t *testing.T) {
	written, err := os.ReadFile("testdata/fred.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fred(""), asNew(t, written, "fred")); diff != "" {
		t.Errorf("the Go sheet (-) and the YAML sheet (+) differ:\n%s", diff)
	}
}

// Whatever a Go data sheet says can be said in YAML, and is read back equal.
func TestSheetsRoundTrip(t *testing.T) {
	for _, spec := range []sheet.Spec{fmp(""), fmp("https://upstream.test/stable"), polygon(""), fred(""), newsapi("")} {
		content, err := toYAML(&spec)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(spec, asNew(t, content, spec.Name)); diff != "" {
			t.Errorf("%s: written (-) and read (+) differ:\n%s", spec.Name, diff)
		}
	}
}

// asNew reads a sheet under a name that no built-in has, so that nothing can
// come from there, and returns it under its own name.
func asNew(t *testing.T, content []byte, name string) sheet.Spec {
	t.Helper()
	prefix := "env_prefix: " + builtins[name]("").EnvPrefix
	text := strings.Replace(string(content), "  "+name+":\n", "  another:\n", 1)
	text = strings.Replace(text, prefix+"\n", prefix+"_2\n", 1)
	l := &loader{getenv: func(string) string { return "" }}
	specs, _, err := catalogue.Read("catalog.yaml", []byte(text), l.builtins)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	spec := specs["another"]
	spec.Name, spec.EnvPrefix = name, strings.TrimSuffix(spec.EnvPrefix, "_2")
	return spec
}

// toYAML writes a spec as a catalogue would.
func toYAML(s *sheet.Spec) ([]byte, error) {
	providers := &fields{}
	providers.add(s.Name, ofSpec(s))
	root := &fields{}
	root.add("providers", providers)

	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(root.node()); err != nil {
		return nil, fmt.Errorf("writing the sheet of %s: %w", s.Name, err)
	}
	return b.Bytes(), nil
}

// sheet is a YAML mapping in the order its fields are added.
type fields struct {
	content []*yaml.Node
	flow    bool // on one line
}

func (s *fields) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Content: s.content}
	if s.flow {
		n.Style = yaml.FlowStyle
	}
	return n
}

// add adds a field unless its value is nothing.
func (s *fields) add(name string, value any) {
	n := &yaml.Node{}
	switch v := value.(type) {
	case *fields:
		if len(v.content) == 0 {
			return
		}
		n = v.node()
	case []*fields:
		if len(v) == 0 {
			return
		}
		n.Kind = yaml.SequenceNode
		for _, item := range v {
			n.Content = append(n.Content, item.node())
		}
	case []string:
		if len(v) == 0 {
			return
		}
		n.Kind, n.Style = yaml.SequenceNode, yaml.FlowStyle
		for _, text := range v {
			n.Content = append(n.Content, scalarNode(text))
		}
	default:
		text := fmt.Sprint(v)
		if text == "" || text == "0" || text == "false" {
			return
		}
		n = scalarNode(text)
		if _, isText := value.(string); !isText {
			n.Tag = "" // true and 30 are written bare
		}
	}
	s.content = append(s.content, scalarNode(name), n)
}

func scalarNode(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
}

func (s *fields) texts(name string, values map[string]string) {
	fields := &fields{flow: true}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		fields.add(key, values[key])
	}
	s.add(name, fields)
}

func ofSpec(s *sheet.Spec) *fields {
	out := &fields{}
	out.add("base_url", s.BaseURL)
	out.add("env_prefix", s.EnvPrefix)
	out.add("key_env", s.KeyEnv)
	addAuth(s.Auth, out)
	out.add("key_params", s.KeyParams)
	out.texts("query", s.Query)
	out.texts("headers", s.Header)
	out.add("limits", s.Limits.String())
	out.add("tier", s.Tier)
	tiers := &fields{}
	for _, name := range slices.Sorted(maps.Keys(s.Tiers)) {
		tier := &fields{flow: true}
		if len(s.Tiers[name].Limits) > 0 {
			tier.add("limits", s.Tiers[name].Limits.String())
		}
		tier.add("forbids", s.Tiers[name].Forbids)
		tiers.content = append(tiers.content, scalarNode(name), tier.node())
	}
	out.add("tiers", tiers)
	out.add("bytes_per_month", formatBytes(s.BytesPerMonth))
	out.add("timeout", formatDuration(s.Timeout))
	out.add("fresh", formatDuration(s.Fresh))
	out.add("stale", formatDuration(s.Stale))
	out.add("rights", s.Rights)
	out.add("notice", s.Notice)
	out.add("error_text", s.ErrorText)
	var own, rules []*fields
	for i := range s.Own {
		own = append(own, ofRule(&s.Own[i]))
	}
	out.add("own", own)
	for i := range s.ErrorRules {
		rules = append(rules, ofRule(&s.ErrorRules[i]))
	}
	out.add("errors", rules)
	var paths []*fields
	for _, path := range s.GetPaths {
		p := &fields{flow: true}
		p.add("prefix", path.Prefix)
		p.add("from_root", path.FromRoot)
		if path.Auth != nil {
			addAuth(path.Auth, p)
		}
		paths = append(paths, p)
	}
	out.add("get_paths", paths)
	out.add("get_paging", ofPaging(s.GetPaging))
	operations := &fields{}
	for _, name := range slices.Sorted(maps.Keys(s.Operations)) {
		operations.add(name, ofOperation(s.Operations[name]))
	}
	out.add("operations", operations)
	return out
}

func addAuth(auths []sheet.Auth, out *fields) {
	for _, a := range auths { // the built-in sheets send one key each
		if a.Name == "" {
			out.add("auth", string(a.Kind))
			continue
		}
		named := &fields{flow: true}
		named.add(string(a.Kind), a.Name)
		out.add("auth", named)
	}
}

func ofOperation(op *sheet.Operation) *fields {
	out := &fields{}
	out.add("path", op.Path)
	out.texts("query", op.Query)
	params := &fields{}
	for i := range op.Params {
		params.add(op.Params[i].Name, ofParam(&op.Params[i]))
	}
	out.add("params", params)
	out.add("any_of", op.AnyOf)
	if len(op.Exclusive) > 0 {
		lists := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, names := range op.Exclusive {
			list := &fields{}
			list.add("", names)
			lists.Content = append(lists.Content, list.content[1])
		}
		out.content = append(out.content, scalarNode("exclusive"), lists)
	}
	if op.Auth != nil {
		addAuth(op.Auth, out)
	}
	out.add("rights", op.Rights)
	out.add("format", string(op.Format))
	addAge(out, "fresh", int64(op.Fresh), formatDuration(op.Fresh))
	addAge(out, "stale", int64(op.Stale), formatDuration(op.Stale))
	out.add("paging", ofPaging(op.Paging))
	return out
}

// addAge leaves out the age that is the provider's.
func addAge(out *fields, name string, age int64, text string) {
	if age != 0 {
		out.add(name, text)
	}
}

func ofParam(p *sheet.Param) *fields {
	out := &fields{flow: true}
	out.add("type", string(p.Type))
	out.add("required", p.Required)
	out.add("wire", p.Wire)
	if p.Default != "" {
		out.content = append(out.content, scalarNode("default"), scalarNode(p.Default))
	}
	out.add("pattern", p.Pattern)
	out.add("min", p.Min)
	out.add("max", p.Max)
	out.add("enum", p.Enum)
	out.add("expected", p.Expected)
	return out
}

func ofPaging(p *sheet.Paging) *fields {
	out := &fields{flow: true}
	if p == nil {
		return out
	}
	out.add("kind", string(p.Kind))
	out.add("param", p.Param)
	out.add("first", p.First)
	out.add("size", p.Size)
	out.add("each", p.Each)
	out.add("items", p.Items)
	out.add("total", p.Total)
	out.add("next", p.Next)
	return out
}

func ofRule(r *sheet.Rule) *fields {
	out := &fields{flow: true}
	var statuses []string
	for _, status := range r.Status {
		text := strconv.Itoa(status)
		if status < 10 {
			text += "xx"
		}
		statuses = append(statuses, text)
	}
	at := slices.Clone(r.At)
	for i := range at {
		if at[i] == "" {
			at[i] = "body"
		}
	}
	out.add("status", statuses)
	out.add("at", at)
	out.add("equals", r.Equals)
	out.add("prefix", r.Prefix)
	out.add("contains", r.Contains)
	out.add("class", string(r.Class))
	out.add("code", string(r.Code))
	if r.MinHold > 0 {
		out.add("min_hold", formatDuration(r.MinHold))
	}
	out.add("no_cache", r.NoCache)
	out.add("hint", r.Hint)
	return out
}

func formatDuration(d time.Duration) string {
	switch {
	case d < 0:
		return "never"
	case d >= 2*day && d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String()
	if d >= time.Minute {
		text = strings.TrimSuffix(text, "0s")
	}
	if d >= time.Hour {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func formatBytes(n int64) string {
	if n == 0 {
		return "none"
	}
	for _, unit := range []struct {
		name string
		size int64
	}{{"GB", gb}, {"MB", 1 << 20}, {"KB", 1 << 10}} {
		if n%unit.size == 0 {
			return strconv.FormatInt(n/unit.size, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}
