package page

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"golang.org/x/sync/errgroup"
)

// finds is what was found of what was asked for.
type finds struct {
	Asked string
	Found []fetchworker.Identity
	Part  bool // Asked is only a part of them
	// Less says that not all was looked at, or not all is shown.
	Less bool
}

// findsShown is how many requests a search lists.
const findsShown = 50

// recorded are the streams in which a request is found by its name.
var recorded = []string{wire.StreamDLQ, wire.StreamReplay, wire.StreamReview, fetchworker.StreamResults}

// find looks for [AGENT/]ID, for an agent, or for what has that in its name. What
// can be only one thing is shown at once.
func (s *Server) find(r *http.Request) (view, error) {
	ctx, data := r.Context(), finds{Asked: strings.TrimSpace(r.URL.Query().Get("q"))}
	v := func() view { return view{Name: "find", Title: "Find", Data: data, Still: true} }
	agent, id, both := strings.Cut(data.Asked, "/")
	if !both {
		agent, id = "", data.Asked
	}
	if agent = strings.ToLower(agent); !fetchworker.ValidID(id) && (id != "" || !both) || agent != "" && !fetchworker.ValidToken(agent) {
		return v(), nil
	}
	if id != "" {
		found, err := s.Desk.LookUp(ctx, browse.Filter{Agent: agent, ID: id}, recorded)
		if err != nil {
			return view{}, err
		}
		data.Found = sorted(found)
	}
	if len(data.Found) == 0 {
		if name := strings.ToLower(strings.TrimSuffix(data.Asked, "/")); fetchworker.ValidToken(name) && s.names.agent(ctx, name) == nil {
			return view{to: "/agent/" + url.PathEscape(name), Still: true, Name: "find", Data: data}, nil
		}
		data.Part = true
		var err error
		part := strings.ToLower(data.Asked)
		if data.Found, data.Less, err = s.search(ctx, browse.Filter{}, func(i fetchworker.Identity) bool {
			return strings.Contains(strings.ToLower(i.Agent+"/"+i.ID), part)
		}); err != nil {
			return view{}, err
		}
	}
	if len(data.Found) == 1 && !data.Less {
		return view{to: address(data.Found[0]), Still: true, Name: "find", Data: data}, nil
	}
	return v(), nil
}

func sorted(found map[fetchworker.Identity][]browse.Found) []fetchworker.Identity {
	return slices.SortedFunc(maps.Keys(found), func(a, b fetchworker.Identity) int { return strings.Compare(a.String(), b.String()) })
}

// search looks through what is stored, the newest first, for as long as a view
// may take, and tells whether there is more.
func (s *Server) search(ctx context.Context, f browse.Filter, is func(fetchworker.Identity) bool) (found []fetchworker.Identity, less bool, err error) {
	var mu sync.Mutex
	var group errgroup.Group
	all := map[fetchworker.Identity]bool{}
	for _, stream := range recorded {
		group.Go(func() error {
			edge, err := s.Desk.Edge(ctx, stream)
			if err != nil {
				return err
			}
			began, mine := time.Now(), 0
			for record, err := range s.Desk.WalkBack(ctx, stream, f.Coarse(edge), edge) {
				if err != nil {
					return err
				}
				more := time.Since(began) > searchTime || mine == findsShown
				mu.Lock()
				switch less = less || more; {
				case more:
				case is(record.Identity):
					all[record.Identity] = true
					mine++
				}
				mu.Unlock()
				if more {
					return nil
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, false, err
	}
	found = slices.SortedFunc(maps.Keys(all), func(a, b fetchworker.Identity) int { return strings.Compare(a.String(), b.String()) })
	if len(found) > findsShown {
		found, less = found[:findsShown], true
	}
	return found, less, nil
}

// agentView is all there is of one agent.
type agentView struct {
	Agent   string
	Today   []operate.Used // by provider
	Missing bool           // nobody counts
	Found   []fetchworker.Identity
	Less    bool
}

// agent leads from an agent's name to all there is of it.
func (s *Server) agent(r *http.Request) (view, error) {
	name := r.PathValue("agent")
	if !fetchworker.ValidToken(name) {
		return missing("that is no agent's name"), nil
	}
	var wrong misplaced
	switch err := s.names.agent(r.Context(), name); {
	case errors.As(err, &wrong):
		v := missing(wrong.text)
		v.Data = trouble{wrong.text, wrong.advice()}
		return v, nil
	case err != nil:
		return view{}, err
	}
	data := agentView{Agent: name}
	rows, err := s.Desk.Usage(r.Context(), operate.UsageFilter{Agent: name, Since: s.Desk.Now()})
	if data.Missing = noStream(err); err != nil && !data.Missing {
		return view{}, err
	}
	data.Today = operate.SumBy(rows, "provider")
	data.Found, data.Less, err = s.search(r.Context(), browse.Filter{Agent: name}, func(i fetchworker.Identity) bool { return i.Agent == name })
	return view{Name: "agent", Title: name, Nav: "agents", Data: data}, err
}
