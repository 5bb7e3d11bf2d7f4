package providers

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Check loads everything as Load does, with the catalogue in file instead of
// FETCH_CATALOG's if file is not "", and writes what is in force. The error
// is Load's: every mistake with its variable or its file and line.
func Check(w io.Writer, getenv func(string) string, file string) error {
	set, err := Load(func(name string) string {
		if name == "FETCH_CATALOG" && file != "" {
			return file
		}
		return getenv(name)
	})
	if err != nil {
		return err
	}
	defer set.Close()
	return set.Describe(w)
}

// Describe writes what is in force, for people. It tells whether a key is
// set, never the key.
func (s *Set) Describe(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range s.All() {
		p.describe(t)
	}
	switch {
	case s.Rights == nil:
		fmt.Fprintln(t, "rights\tevery agent holds every right but export (no FETCH_RIGHTS)")
	default:
		for _, agent := range slices.Sorted(maps.Keys(s.Rights.Agents)) {
			fmt.Fprintf(t, "rights\t%s\t%s\n", agent, listOr(s.Rights.Agents[agent], "none"))
		}
		fmt.Fprintf(t, "rights\tall others\t%s\n", listOr(s.Rights.Default, "none"))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("describing the providers: %w", err)
	}
	return nil
}

func (p *Provider) describe(w io.Writer) {
	limits := p.Limits.String()
	if p.Tier != "" {
		limits += " (tier " + p.Tier
		if forbids := p.Tiers[p.Tier].Forbids; len(forbids) > 0 {
			limits += ", forbids " + strings.Join(forbids, ", ")
		}
		limits += ")"
	}
	fmt.Fprintf(w, "%s\t%s\n", p.Name, p.BaseURL)
	fmt.Fprintf(w, "  key\t%s\n", p.describeKey())
	fmt.Fprintf(w, "  limits\t%s\n", limits)
	fmt.Fprintf(w, "  bytes a month\t%s\n", formatBytes(p.BytesPerMonth))
	fmt.Fprintf(w, "  timeout\t%s\n", formatDuration(p.Timeout))
	for _, name := range slices.Sorted(maps.Keys(p.Operations)) {
		op := p.Operations[name]
		params := make([]string, len(op.Params))
		for i, param := range op.Params {
			params[i] = param.Name
			if param.Required {
				params[i] += "*"
			} else if param.Default != "" {
				params[i] += "=" + param.Default
			}
		}
		path := op.Path
		if name == opGet {
			path, params = "any path", []string{"path*", "query"}
		}
		fmt.Fprintf(w, "  %s\t%s\tfresh %s\tstale %s\trights %s\t%s\n", name, path,
			formatDuration(op.Fresh), formatDuration(op.Stale), listOr(slices.Concat(p.Rights, op.Rights), "none"), strings.Join(params, " "))
	}
	fmt.Fprintln(w)
}

func (p *Provider) describeKey() string {
	if p.Auth.Kind == AuthNone {
		return "none needed"
	}
	state := "not set"
	if p.key.isSet() {
		state = "set"
	}
	how := map[AuthKind]string{
		AuthQuery:  "query parameter " + p.Auth.Name,
		AuthHeader: "header " + p.Auth.Name,
		AuthBearer: "header Authorization: Bearer",
	}[p.Auth.Kind]
	return fmt.Sprintf("%s is %s, sent as %s", p.keyEnv(), state, how)
}

func listOr(values []string, otherwise string) string {
	if len(values) == 0 {
		return otherwise
	}
	return strings.Join(values, ",")
}
