package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"fetchworker/internal/app"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/catalogue"

	"go.uber.org/zap"
)

// checking is what check is told to do.
type checking struct {
	catalog     string // a file, "" for the built-in providers
	schema, try bool
}

// check validates the configuration as serve would read it, and prints what
// is in force. Every mistake is named at once, in files with its line. But for
// a try it connects to nothing, and it prints no key.
func check(ctx context.Context, o checking, args []string, getenv func(string) string, stdout io.Writer) error {
	if o.schema {
		_, err := stdout.Write(catalogue.Schema())
		return err
	}
	environment := app.WatchEnvironment(func(name string) string {
		if name == "FETCH_CATALOG" {
			return o.catalog
		}
		return getenv(name)
	})
	with := environment.Get
	config, err := app.Load(with)
	set, loadErr := providers.Load(with)
	if err := errors.Join(err, loadErr, doorsTokens(config)); err != nil {
		return err
	}
	defer set.Close()
	if o.try {
		return try(ctx, args, config, set, stdout)
	}

	r := &report{tabs: tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0), getenv: with}
	r.daemon(config)
	r.rights(set.Rights)
	for _, p := range set.All() {
		r.provider(p)
	}
	for _, warning := range append(set.Warnings, environment.Unread(prefixes(set)...)...) {
		r.line("")
		r.line("warning: " + warning)
	}
	return r.tabs.Flush()
}

// doorsTokens says what is wrong with the file of tokens, where a worker with
// this configuration would serve the gateway.
func doorsTokens(config app.Config) error {
	if !opens(config, !config.NATS.Remote()) {
		return nil
	}
	_, err := gatewayTokens(config, zap.NewNop())
	return err
}

// prefixes are those of the providers' own variables.
func prefixes(set *providers.Set) (all []string) {
	for _, p := range set.All() {
		all = append(all, p.EnvPrefix)
	}
	return all
}

// report writes what is in force, aligned.
type report struct {
	tabs   *tabwriter.Writer
	getenv func(string) string
}

// line writes one; what cannot be written is told by Flush.
func (r *report) line(columns ...string) { _, _ = fmt.Fprintln(r.tabs, strings.Join(columns, "\t")) }

func (r *report) daemon(c app.Config) {
	server := fmt.Sprintf("embedded on %s, data in %s, synced %s", c.NATSAddr, c.DataDir, "on every write")
	if c.Sync > 0 {
		server = fmt.Sprintf("embedded on %s, data in %s, synced every %s", c.NATSAddr, c.DataDir, plain(c.Sync))
	}
	switch {
	case c.NATS.URL != "":
		server = "joins NATS_URL"
	case c.NATS.Context != "":
		server = "joins the context " + c.NATS.Context
	}
	if c.NATS.Remote() && c.NATS.Creds != "" {
		server += ", credentials in " + c.NATS.Creds
	}
	circuit := fmt.Sprintf("after %d different requests failed in a row, probed every %s", c.CircuitFailures, plain(c.CircuitOpen))
	if c.CircuitFailures == 0 {
		circuit = "off"
	}
	r.line("worker")
	r.line("  NATS", server)
	r.line("  replay loop", c.Replay)
	r.line("  metrics, health", c.HTTPAddr)
	r.line("  calls at once", fmt.Sprintf("%d a provider", c.Concurrency))
	r.line("  large bodies", fmt.Sprintf("%d MiB of memory in all", c.BodyMemory>>20))
	r.line("  retries", fmt.Sprintf("%d, the first after %s", c.Retries, plain(c.RetryBase)))
	r.line("  circuit", circuit)
	r.line("  a request lives", plain(c.MaxLife)+" at most")
	copies := "in as many copies as stand (1 where there are none)"
	if c.Topology.Replicas > 0 {
		copies = fmt.Sprintf("in %d copies", c.Topology.Replicas)
	}
	r.line("  answers are kept", plain(c.ResultAge)+", "+copies)
}

func (r *report) rights(rights *providers.Rights) {
	if rights == nil {
		r.line("  agents hold", "every right but export (no FETCH_RIGHTS)")
		return
	}
	r.line("")
	r.line("agents hold")
	for _, agent := range slices.Sorted(maps.Keys(rights.Agents)) {
		r.line("  "+agent, held(rights.Agents[agent]))
	}
	r.line("  any other agent", held(rights.Default))
}

func held(rights []string) string {
	if len(rights) == 0 {
		return "none"
	}
	return strings.Join(rights, ", ")
}

func (r *report) provider(p *providers.Provider) {
	r.line("")
	r.line(p.Name)
	var keys []string
	for _, variable := range p.Variables() {
		switch {
		case r.getenv(variable+"_FILE") != "":
			keys = append(keys, variable+"_FILE is set")
		case r.getenv(variable) != "":
			keys = append(keys, variable+" is set")
		default:
			keys = append(keys, variable+" is not set: requests are answered provider_not_configured")
		}
	}
	if len(keys) == 0 {
		keys = []string{"none needed"}
	}
	r.line("  key", strings.Join(keys, "; "))
	r.line("  base URL", p.BaseURL)
	if p.Tier != "" {
		tier := p.Tier
		if forbids := p.Tiers[p.Tier].Forbids; len(forbids) > 0 {
			tier += ", forbids " + strings.Join(forbids, ", ")
		}
		r.line("  tier", tier)
	}
	limits := "unlimited"
	if len(p.Limits) > 0 {
		limits = p.Limits.String()
	}
	if p.Quota != "" {
		limits += ", of the quota " + p.Quota
	}
	if p.AtOnce > 0 {
		limits += fmt.Sprintf(", %d at once in the whole fleet", p.AtOnce)
	}
	r.line("  limits", limits)
	for _, name := range slices.Sorted(maps.Keys(p.Groups)) {
		r.line("  limits of "+name, p.Groups[name].String())
	}
	bytes := "unlimited"
	if p.BytesPerMonth > 0 {
		bytes = fmt.Sprintf("%.4g GB a month", float64(p.BytesPerMonth)/(1<<30))
	}
	r.line("  bytes", bytes)
	r.line("  timeout", plain(p.Timeout))
	if !p.ToldUnderSuccess() {
		r.line("  errors", "none is told from an answer under 2xx: one that comes so is kept as an answer (docs/catalogue.md, errors)")
	}
	r.line("  operations")
	for _, name := range slices.Sorted(maps.Keys(p.Operations)) {
		r.operation(p.Operations[name])
	}
}

func (r *report) operation(op *providers.Operation) {
	params := make([]string, 0, len(op.Params))
	for _, param := range op.Params {
		if param.Required {
			params = append(params, param.Name)
			continue
		}
		params = append(params, "["+param.Name+"]")
	}
	if op.Path == "" { // get, which every provider has
		params = []string{"path", "[query]"}
	}
	ages := "fresh " + age(op.Fresh) + ", stale " + age(op.Stale)
	needs := ""
	if len(op.Rights) > 0 {
		needs = "needs " + strings.Join(op.Rights, ", ")
	}
	if len(op.Limits) > 0 {
		ages += ", limits " + op.Limits.String()
	}
	if op.Group != "" {
		ages += ", group " + op.Group
	}
	if op.Units() > 1 {
		ages += fmt.Sprintf(", counts as %d calls", op.Units())
	}
	r.line("    "+op.Name, ages, needs, strings.Join(params, " "))
}

func age(d time.Duration) string {
	if d < 0 {
		return "never"
	}
	return plain(d)
}

// plain is a duration without the zeros that Go writes: 72h, not 72h0m0s.
func plain(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
