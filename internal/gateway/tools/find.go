package tools

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"fetchworker"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type searchInput struct {
	Query    string `json:"query"`
	Provider string `json:"provider"`
	Limit    whole  `json:"limit"`
}

// found is one operation, briefly.
type found struct {
	Provider  string `json:"provider"`
	Operation string `json:"operation"`
	Path      string `json:"path,omitempty"`
	Params    string `json:"params,omitempty"` // those that are needed first, with a star
	Unserved  bool   `json:"cannot_be_asked,omitempty"`
}

const (
	standardFound = 10
	mostFound     = 50
)

// search finds operations by words.
func (t *tools) search(ctx context.Context, _ *mcp.CallToolRequest, in searchInput) (any, error) {
	all, err := t.catalogue.All(ctx)
	if err != nil {
		return nil, err
	}
	if in.Provider != "" {
		one, err := t.catalogue.Provider(ctx, in.Provider)
		if err != nil {
			return nil, err
		}
		all = []fetchworker.Catalogue{one}
	}
	words := strings.FieldsFunc(strings.ToLower(in.Query), func(r rune) bool { return ('a' > r || r > 'z') && ('0' > r || r > '9') })
	if len(words) == 0 && in.Provider == "" {
		return overview(all), nil
	}
	return best(words, all, int(in.Limit)), nil
}

// best are the operations that fit the words best, as far as there is room; where
// none does, what there is.
func best(words []string, all []fetchworker.Catalogue, limit int) any {
	type hit struct {
		found
		score int
	}
	var hits []hit
	for _, p := range all {
		for _, o := range p.Operations {
			if n := score(words, p, o); n > 0 || len(words) == 0 {
				hits = append(hits, hit{found{p.Provider, o.Name, o.Path, briefly(o.Params), !p.Configured}, n})
			}
		}
	}
	if len(hits) == 0 {
		return overview(all)
	}
	slices.SortStableFunc(hits, func(x, y hit) int { return cmp.Compare(y.score, x.score) })
	if limit <= 0 {
		limit = standardFound
	}
	limit = min(limit, mostFound, len(hits))
	out := struct {
		Operations []found `json:"operations"`
		LeftOut    string  `json:"left_out,omitempty"`
	}{Operations: []found{}}
	left := room(0)
	for _, h := range hits[:limit] {
		text, _ := json.Marshal(h.found) // texts
		if left -= cost(text); left < 0 {
			break
		}
		out.Operations = append(out.Operations, h.found)
	}
	if n := len(hits) - len(out.Operations); n > 0 {
		out.LeftOut = fmt.Sprintf("%d more match less well: search with other words, a provider, or a higher limit (at most %d)", n, mostFound)
	}
	return out
}

// overview are the providers with the names of their operations, as far as
// there is room.
func overview(all []fetchworker.Catalogue) any {
	type provider struct {
		Provider   string   `json:"provider"`
		Operations []string `json:"operations"`
		More       int      `json:"more,omitempty"` // operations that are not named
		Unserved   bool     `json:"cannot_be_asked,omitempty"`
	}
	names := 12
	if len(all) > 0 {
		names = min(max(room(0)/2/len(all)/20, 0), 60) // some 20 bytes a name
	}
	out := struct {
		Providers []provider `json:"providers"`
		Hint      string     `json:"hint"`
	}{[]provider{}, "search_operations with a query or a provider tells their parameters"}
	left := room(0)
	for i, p := range all {
		one := provider{Provider: p.Provider, Operations: []string{}, Unserved: !p.Configured}
		for _, o := range p.Operations {
			if len(one.Operations) >= names {
				one.More = len(p.Operations) - len(one.Operations)
				break
			}
			one.Operations = append(one.Operations, o.Name)
		}
		text, _ := json.Marshal(one) // texts and numbers
		if left -= cost(text); left < 0 {
			out.Hint += fmt.Sprintf("; %d more providers are not listed", len(all)-i)
			break
		}
		out.Providers = append(out.Providers, one)
	}
	return out
}

// noise are words that say nothing of what is searched.
var noise = []string{"the", "for", "and", "get", "all", "data", "what", "with", "from"}

// score is how well an operation fits the words: 0, not at all.
func score(words []string, p fetchworker.Catalogue, o fetchworker.CatalogueOperation) int {
	total := 0
	path, params := strings.ToLower(o.Path), strings.ToLower(string(o.Params))
	for _, w := range words {
		stem := w
		if len(w) > 3 {
			stem = strings.TrimSuffix(w, "s")
		}
		switch {
		case w == o.Name:
			total += 20
		case w == p.Provider:
			total += 12
		case len(w) < 3 || slices.Contains(noise, w):
		case strings.Contains(o.Name, stem):
			total += 8
		case strings.Contains(path, stem):
			total += 5
		case strings.Contains(params, stem):
			total += 2
		}
	}
	if total > 0 && p.Configured {
		total++
	}
	return total
}

// schema is what is read of a JSON Schema of parameters.
type schema struct {
	Properties map[string]json.RawMessage `json:"properties"`
	Required   []string                   `json:"required"`
}

// briefly are the names of the parameters, those that are needed with a star.
func briefly(params json.RawMessage) string {
	var s schema
	if json.Unmarshal(params, &s) != nil {
		return ""
	}
	var needed, others []string
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if slices.Contains(s.Required, name) {
			needed = append(needed, name+"*")
		} else {
			others = append(others, name)
		}
	}
	names := append(needed, others...)
	if len(names) > 12 {
		names = append(names[:12:12], fmt.Sprintf("and %d more", len(names)-12))
	}
	return strings.Join(names, ", ")
}

type describeInput struct {
	Provider  string `json:"provider"`
	Operation string `json:"operation"`
}

// describe tells one operation in full.
func (t *tools) describe(ctx context.Context, _ *mcp.CallToolRequest, in describeInput) (any, error) {
	o, err := t.catalogue.Operation(ctx, in.Provider, in.Operation)
	if err != nil {
		return nil, err
	}
	p, err := t.catalogue.Standing(ctx, in.Provider)
	if err != nil {
		return nil, err
	}
	return described(p, o), nil
}

// described is an operation in full, or as much of it as there is room for.
func described(p fetchworker.Catalogue, o fetchworker.CatalogueOperation) any {
	out := struct {
		Provider string   `json:"provider"`
		Notice   string   `json:"notice,omitempty"`
		Stands   stands   `json:"stands"`
		Name     string   `json:"operation"`
		Path     string   `json:"path,omitempty"`
		Format   string   `json:"format,omitempty"`
		Rights   []string `json:"rights,omitempty"`
		Fresh    string   `json:"fresh_for,omitempty"`
		Pages    bool     `json:"pages,omitempty"`
		Params   any      `json:"params"`
		LeftOut  string   `json:"left_out,omitempty"`
	}{
		Provider: p.Provider, Notice: p.Notice, Stands: standing(p), Name: o.Name, Path: o.Path, Format: o.Format, Rights: o.Rights, Pages: o.Pages, Params: o.Params,
	}
	if o.Fresh > 0 {
		out.Fresh = time.Duration(o.Fresh).String()
	}
	if cost(o.Params) > room(0) {
		out.Params, out.LeftOut = briefly(o.Params), "the schema of the parameters is too large: GET /v1/providers has it; only names are told, with a star those that are needed"
	}
	return out
}

// stands is how a provider stands, briefly.
type stands struct {
	Provider string             `json:"provider"`
	Unserved bool               `json:"cannot_be_asked,omitempty"`
	Waits    fetchworker.Reason `json:"waits_for,omitempty"`
	RetryAt  time.Time          `json:"retry_at,omitzero"`
	Left     []string           `json:"calls_left,omitempty"` // such as 298 of 300 per 1m0s
	NextAt   time.Time          `json:"next_call_at,omitzero"`
	Bytes    string             `json:"bytes_used,omitempty"`
	Failing  []string           `json:"failing_operations,omitempty"`
}

func standing(p fetchworker.Catalogue) stands {
	s := stands{Provider: p.Provider, Unserved: !p.Configured}
	now := p.Now
	if now == nil {
		return s
	}
	s.Waits, s.RetryAt = now.Reason, now.RetryAt
	for _, l := range now.Limits {
		s.Left = append(s.Left, fmt.Sprintf("%d of %d per %v", l.Left, l.Calls, time.Duration(l.Per)))
	}
	if now.NextAt.After(now.At) {
		s.NextAt = now.NextAt
	}
	if b := now.Bytes; b != nil {
		s.Bytes = fmt.Sprintf("%d %% of the month's, which ends %s", int(math.Round(100*float64(b.Used)/float64(b.Limit))), b.Ends.Format(time.DateOnly))
	}
	for _, o := range now.Open {
		s.Failing = append(s.Failing, o.Operation)
	}
	return s
}

type limitsInput struct {
	Provider string `json:"provider"`
}

// limits tells what is left.
func (t *tools) limits(ctx context.Context, _ *mcp.CallToolRequest, in limitsInput) (any, error) {
	if in.Provider != "" {
		p, err := t.catalogue.Standing(ctx, in.Provider)
		if err != nil {
			return nil, err
		}
		return map[string][]stands{"providers": {standing(p)}}, nil
	}
	all, err := t.catalogue.Standings(ctx)
	if err != nil {
		return nil, err
	}
	return standings(all), nil
}

// standings are how all providers stand, as far as there is room.
func standings(all []fetchworker.Catalogue) any {
	// Those that can be asked come first: there may not be room for all.
	slices.SortStableFunc(all, func(x, y fetchworker.Catalogue) int {
		if x.Configured == y.Configured {
			return 0
		}
		if x.Configured {
			return -1
		}
		return 1
	})
	out := struct {
		Providers []stands `json:"providers"`
		LeftOut   string   `json:"left_out,omitempty"`
	}{Providers: []stands{}}
	left := room(0)
	for i, p := range all {
		s := standing(p)
		text, _ := json.Marshal(s) // texts, and times that came as JSON
		if left -= cost(text); left < 0 {
			out.LeftOut = fmt.Sprintf("%d more providers: ask for one by its name", len(all)-i)
			break
		}
		out.Providers = append(out.Providers, s)
	}
	return out
}
