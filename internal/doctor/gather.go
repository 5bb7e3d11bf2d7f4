package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// Examine looks at the fleet, or at one provider, and judges it.
func Examine(ctx context.Context, d *operate.Desk, f *operate.Fleet, provider string) (Diagnosis, error) {
	o, err := f.Overview(ctx, provider)
	if err != nil {
		return Diagnosis{}, err
	}
	facts, err := Gather(ctx, d, f, o)
	if err != nil {
		return Diagnosis{}, err
	}
	return Judge(facts), nil
}

// sampled is how many letters and items of a provider are read.
const sampled = 200

// Gather asks for what an overview does not tell.
func Gather(ctx context.Context, d *operate.Desk, f *operate.Fleet, o operate.Overview) (Facts, error) {
	facts := Facts{
		Overview: o, Holds: map[string]operate.Hold{}, Refused: map[string]bool{}, Agents: map[string]map[string]int{},
		Review: map[string][]Asked{}, Classes: map[string]map[wire.Class]int{},
	}
	var err error
	if facts.Stores, err = stores(ctx, d); err != nil {
		return facts, err
	}
	for _, s := range o.Providers {
		p := s.Provider
		if h, held := f.Hold(p); held {
			facts.Holds[p] = h
		}
		facts.Refused[p] = f.Provider(p, o.At).Circuit.KeyRefused()
		if waiting(s) >= floodFrom {
			if facts.Agents[p], facts.Most, err = f.Waiting(ctx, p); err != nil {
				return facts, err
			}
		}
		if s.Letters > 0 {
			facts.Classes[p] = make(map[wire.Class]int)
			if err := head(ctx, d, wire.StreamDLQ, p, func(l dlq.Letter) { facts.Classes[p][l.Class]++ }); err != nil {
				return facts, err
			}
		}
		if s.Review > 0 {
			if facts.Review[p], err = asked(ctx, d, p); err != nil {
				return facts, err
			}
		}
	}
	return facts, nil
}

func waiting(s operate.Status) (n int) {
	for _, lane := range s.Lanes {
		n += lane.Waiting
	}
	return n
}

// edited are the streams that operators may delete from, and so can be asked
// whether their files could be written.
var edited = []string{fetchworker.StreamRequests, wire.StreamReplay, wire.StreamDLQ, wire.StreamReview}

// stores are the streams that hold work back when they are full, and what the
// account may store where it has a limit.
func stores(ctx context.Context, d *operate.Desk) ([]Store, error) {
	var found []Store
	js := d.JS
	names := broker.StreamNames()
	for _, short := range slices.Sorted(maps.Keys(names)) {
		stream, err := js.Stream(ctx, names[short])
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", names[short], err)
		}
		info := stream.CachedInfo()
		store := Store{Name: short}
		if info.Config.MaxBytes > 0 && info.Config.Discard == jetstream.DiscardNew {
			store.Used, store.Limit = int64(min(info.State.Bytes, 1<<62)), info.Config.MaxBytes // bounded
		}
		if slices.Contains(edited, names[short]) {
			store.Stuck, _ = d.Log.Stuck(ctx, names[short], info.Config.Replicas) // who may not ask does not know
		}
		if store.Limit > 0 || store.Stuck != "" {
			found = append(found, store)
		}
	}
	if account, err := js.AccountInfo(ctx); err == nil && account.Limits.MaxStore > 0 { // who may not ask knows the streams
		found = append(found, Store{Name: Account, Used: int64(min(account.Store, 1<<62)), Limit: account.Limits.MaxStore}) // bounded
	}
	return found, nil
}

// head reads the first letters or items of a provider.
func head(ctx context.Context, d *operate.Desk, stream, provider string, see func(dlq.Letter)) error {
	edge, err := d.Edge(ctx, stream)
	if err != nil {
		return err
	}
	subject := browse.Filter{Provider: provider}.Subject(stream)
	for raw, err := range d.First(ctx, stream, subject, 1, edge, sampled) {
		if err != nil {
			return err
		}
		if l, err := dlq.Decode(raw.Subject, raw.Header, raw.Data); err == nil {
			see(l)
		}
	}
	return nil
}

// asked groups a provider's items by what was asked.
func asked(ctx context.Context, d *operate.Desk, provider string) ([]Asked, error) {
	counts, of := map[Asked]int{}, 0
	err := head(ctx, d, wire.StreamReview, provider, func(l dlq.Letter) {
		of++
		counts[Asked{Operation: l.Operation, Params: params(l.Body), Agent: l.Agent, Class: l.Class}]++
	})
	var list []Asked
	for a, n := range counts {
		a.Count, a.Of = n, of
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b Asked) int { return b.Count - a.Count })
	return list, err
}

// params are a request's parameters in one form.
func params(body []byte) string {
	var request struct {
		Params map[string]any `json:"params"`
	}
	if json.Unmarshal(body, &request) != nil {
		return "(no JSON)"
	}
	text, _ := json.Marshal(request.Params) // of what was JSON: cannot fail
	const most = 120
	if len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(text)
}
