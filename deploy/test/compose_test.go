// Package deploy_test holds what is shipped in deploy/ and beside it to the
// code: the compose file, the images, the dashboards and the alerts. It is a
// module of its own so that nobody who only runs the service downloads
// Prometheus.
package deploy_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fetchworker/internal/app"
	"fetchworker/internal/gateway/tokens"
	"fetchworker/internal/providers"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

const root = "../.."

// known are the names that our processes read from their environment, found
// by letting them read it.
func known(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	getenv := func(name string) string {
		names[name] = true
		return ""
	}
	if _, err := app.Load(getenv); err != nil {
		t.Fatal(err)
	}
	set, err := providers.Load(getenv)
	if err != nil {
		t.Fatal(err)
	}
	set.Close()
	return names
}

// elsewhere are the names that others than our code read: the Go runtime, the
// OpenTelemetry SDK.
var elsewhere = map[string]bool{
	"GOMEMLIMIT":                  true,
	"COMPOSE_PROFILES":            true, // compose itself, which reads it for the message
	"OTEL_EXPORTER_OTLP_ENDPOINT": true, "OTEL_EXPORTER_OTLP_HEADERS": true, "OTEL_SERVICE_NAME": true,
	"OTEL_TRACES_SAMPLER": true, "OTEL_TRACES_SAMPLER_ARG": true, "OTEL_RESOURCE_ATTRIBUTES": true,
}

// project is the compose file as compose itself reads it, with .env.example
// for .env.
func project(t *testing.T, profiles ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(root, "docker-compose.yml")},
		cli.WithWorkingDirectory(root), cli.WithEnvFiles(filepath.Join(root, ".env.example")), cli.WithDotEnv, cli.WithProfiles(profiles))
	if err != nil {
		t.Fatal(err)
	}
	p, err := options.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestComposeRunsOneServerOrThree(t *testing.T) {
	always := []string{"alertmanager", "apply", "gateway", "grafana", "page", "prometheus", "replayer", "worker"}
	for _, c := range []struct {
		profile string
		more    []string
	}{
		{"single", []string{"nats", "nats-exporter"}},
		{"cluster", []string{"nats-1", "nats-1-exporter", "nats-2", "nats-2-exporter", "nats-3", "nats-3-exporter"}},
	} {
		p := project(t, c.profile)
		want := slices.Sorted(slices.Values(append(slices.Clone(always), c.more...)))
		if got := slices.Sorted(slices.Values(p.ServiceNames())); !slices.Equal(got, want) {
			t.Errorf("%s runs %v, want %v", c.profile, got, want)
		}
		for _, name := range c.more {
			if server, is := strings.CutSuffix(name, "-exporter"); is {
				if mode := p.Services[name].NetworkMode; mode != "service:"+server {
					t.Errorf("%s is in the network %s", name, mode)
				}
				continue
			}
			if networks := p.Services[name].Networks; name != "nats" && !slices.Contains(networks["default"].Aliases, "nats") {
				t.Errorf("%s cannot be found as nats", name)
			}
		}
	}
	worker := project(t, "single").Services["worker"]
	if n := worker.GetScale(); n != 2 {
		t.Errorf("%d workers", n)
	}
}

func TestComposeSetsOnlyWhatTheCodeReads(t *testing.T) {
	p, names := project(t, "*"), known(t)
	for _, service := range []string{"apply", "worker", "replayer", "gateway", "page", "operator"} {
		for name := range p.Services[service].Environment {
			if !names[name] && !elsewhere[name] {
				t.Errorf("%s is given %s, which nothing reads", service, name)
			}
		}
	}
	given := p.Services["worker"].Environment
	for name := range names {
		// An embedded server's, and what compose leaves at the default.
		if _, ok := given[name]; !ok && !unnamed(name) && !slices.Contains([]string{
			"NATS_CREDS", "NATS_CONTEXT", "FETCH_NATS_ADDR", "FETCH_DATA_DIR", "FETCH_SYNC", "FETCH_REPLAY", "FETCH_HTTP_ADDR",
			"FETCH_GATEWAY", "FETCH_GATEWAY_ADDR", "FETCH_GATEWAY_TOKENS", "FETCH_GATEWAY_ORIGINS", // the gateway's
		}, name) {
			t.Errorf("the worker reads %s, and compose cannot set it", name)
		}
	}
}

// unnamed are variables that compose does not name: files with keys go to
// .env.providers with all that belongs to one provider, and the gateway and the
// page are an embedded server's, or processes of their own.
func unnamed(name string) bool {
	return strings.HasSuffix(name, "_API_KEY_FILE") || strings.HasPrefix(name, "FETCH_GATEWAY") || strings.HasPrefix(name, "FETCH_PAGE")
}

// TestComposePassesACataloguesKeys: what is in .env.providers reaches the
// worker and nothing else.
func TestComposePassesACataloguesKeys(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"docker-compose.yml": "", ".env.example": "", ".env.providers": "ACME_API_KEY=acme\nACME_REQUESTS_PER_MINUTE=7\n",
	} {
		if text == "" {
			b, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	options, err := cli.NewProjectOptions([]string{filepath.Join(dir, "docker-compose.yml")},
		cli.WithWorkingDirectory(dir), cli.WithEnvFiles(filepath.Join(dir, ".env.example")), cli.WithDotEnv, cli.WithProfiles([]string{"*"}))
	if err != nil {
		t.Fatal(err)
	}
	p, err := options.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	worker := p.Services["worker"].Environment
	for name, want := range map[string]string{"ACME_API_KEY": "acme", "ACME_REQUESTS_PER_MINUTE": "7"} {
		if got := worker[name]; got == nil || *got != want {
			t.Errorf("the worker's %s is not %s", name, want)
		}
	}
	for name, s := range p.Services {
		if _, has := s.Environment["ACME_API_KEY"]; has && name != "worker" {
			t.Errorf("%s has a provider's key", name)
		}
	}
}

// Without a profile no server would start, and apply would try for ever.
func TestComposeWithoutAProfileSaysWhatIsMissing(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, ".env.example"))
	if err != nil {
		t.Fatal(err)
	}
	env := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(env, []byte(strings.Replace(string(text), "COMPOSE_PROFILES=", "#COMPOSE_PROFILES=", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	options, err := cli.NewProjectOptions([]string{filepath.Join(root, "docker-compose.yml")}, cli.WithWorkingDirectory(root), cli.WithEnvFiles(env), cli.WithDotEnv)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = options.LoadProject(context.Background()); err == nil || !strings.Contains(err.Error(), "COMPOSE_PROFILES=single") {
		t.Errorf("it says %v", err)
	}
}

func TestTheExampleNamesEveryVariable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, ".env.example"))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#?([A-Z][A-Z0-9_]+)=`).FindAllStringSubmatch(string(text), -1) {
		listed[m[1]] = true
	}
	names := known(t)
	maps.Copy(names, elsewhere)
	delete(names, "GOMEMLIMIT") // compose sets it to fit its own limits
	for name := range names {
		if !listed[name] && !unnamed(name) {
			t.Errorf(".env.example does not name %s", name)
		}
		delete(listed, name)
	}
	compose, err := os.ReadFile(filepath.Join(root, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	delete(listed, "COMPOSE_PROFILES")
	for name := range listed {
		if !strings.Contains(string(compose), "${"+name) {
			t.Errorf(".env.example names %s, which nothing reads", name)
		}
	}
}

func TestComposeMountsOnlyWhatIsThere(t *testing.T) {
	p := project(t, "*")
	for name, s := range p.Services {
		for _, v := range s.Volumes {
			switch v.Type {
			case types.VolumeTypeBind:
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if !v.ReadOnly {
					t.Errorf("%s may write to %s", name, v.Source)
				}
			case types.VolumeTypeVolume:
				if _, ok := p.Volumes[v.Source]; !ok {
					t.Errorf("%s: volume %s is not declared", name, v.Source)
				}
			}
		}
	}
}

func TestComposeHardensAndLimitsEverything(t *testing.T) {
	for name, s := range project(t, "*").Services {
		if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") || len(s.SecurityOpt) == 0 {
			t.Errorf("%s is not hardened", name)
		}
		if s.Deploy == nil || s.Deploy.Resources.Limits == nil || s.Deploy.Resources.Limits.MemoryBytes == 0 {
			t.Errorf("%s has no memory limit", name)
		}
		if s.Restart == "" {
			t.Errorf("%s has no restart policy", name)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %s beyond this machine", name, port.Published)
			}
		}
		if name != "apply" && s.Build == nil && strings.HasSuffix(s.Image, "latest") {
			t.Errorf("%s runs any version of %s", name, s.Image)
		}
	}
}

func TestEachProcessHasItsOwnUserAndInbox(t *testing.T) {
	p := project(t, "single", "tools")
	for service, user := range map[string]string{"apply": "admin", "worker": "worker", "replayer": "replayer", "gateway": "gateway", "page": "operator", "operator": "operator"} {
		env := p.Services[service].Environment
		if url := *env["NATS_URL"]; !strings.HasPrefix(url, "nats://"+user+":") {
			t.Errorf("%s is %s", service, url)
		}
		if inbox := *env["NATS_INBOX_PREFIX"]; inbox != "_INBOX_"+user {
			t.Errorf("%s listens on %s", service, inbox)
		}
		for name := range env {
			if service != "worker" && strings.HasSuffix(name, "_API_KEY") {
				t.Errorf("%s is given %s and calls no provider", service, name)
			}
		}
	}
}

func TestTheExampleRightsAreValid(t *testing.T) {
	env := map[string]string{"FETCH_RIGHTS": filepath.Join(root, "deploy/config/rights.yaml")}
	set, err := providers.Load(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	set.Close()
}

func TestTheExampleTokensAreValid(t *testing.T) {
	if _, err := tokens.Load(filepath.Join(root, "deploy/config/tokens.yaml"), nil); err != nil {
		t.Fatal(err)
	}
}
