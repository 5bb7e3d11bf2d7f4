package deploy_test

import (
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats-server/v2/server"
	"go.yaml.in/yaml/v3"
)

// TestComposesClusterForms gives three servers the command lines that compose
// gives them, with loopback addresses for the containers', and lets apply make
// every stream with three copies.
func TestComposesClusterForms(t *testing.T) {
	if testing.Short() {
		t.Skip("runs three servers")
	}
	p := project(t, "cluster")
	for name, value := range p.Services["nats-1"].Environment {
		t.Setenv(name, *value)
	}
	conf, err := filepath.Abs(filepath.Join(root, "nats"))
	if err != nil {
		t.Fatal(err)
	}
	nodes := []string{"nats-1", "nats-2", "nats-3"}
	addrs := map[string]string{}
	for _, name := range nodes {
		addrs[name] = freeAddr(t)
	}
	var toAddrs []string
	for name, addr := range addrs {
		toAddrs = append(toAddrs, name+":6222", addr)
	}
	t.Setenv("NATS_ROUTES", strings.NewReplacer(toAddrs...).Replace(os.Getenv("NATS_ROUTES")))
	var servers []*server.Server
	for _, name := range nodes {
		var args []string
		for _, arg := range p.Services[name].Command {
			args = append(args, strings.ReplaceAll(arg, "/etc/nats", conf))
		}
		options, err := server.ConfigureOptions(flag.NewFlagSet(name, flag.ContinueOnError), args, nil, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if options.Host != "0.0.0.0" || !options.SyncAlways || options.Cluster.Name != "fetch" || options.Cluster.Username == "" || len(options.Routes) != 3 {
			t.Errorf("%s: %+v", name, options)
		}
		onVolume(t, p, name, options.StoreDir)
		options.StoreDir = t.TempDir()
		if options.Cluster.Host, options.Cluster.Port, err = hostPort(addrs[name]); err != nil {
			t.Fatal(err)
		}
		options.Host, options.Port, options.HTTPPort = "127.0.0.1", server.RANDOM_PORT, 0
		options.NoSigs, options.NoLog = true, true
		s, err := server.NewServer(options)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		formed := false
		for _, s := range servers {
			formed = formed || s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == 3
		}
		if formed {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no cluster")
		}
	}
	apply := run(t, p, "apply", servers[0].Addr().String(), "FETCH_REPLICAS=3")
	if err := apply.Wait(); err != nil {
		t.Fatalf("apply: %v\n%s", err, apply.logs.String())
	}
	info, err := servers[0].Jsz(&server.JSzOptions{Accounts: true, Streams: true, Config: true})
	if err != nil {
		t.Fatal(err)
	}
	streams := 0
	for _, account := range info.AccountDetails {
		for _, s := range account.Streams {
			streams++
			if s.Config.Replicas != 3 {
				t.Errorf("%s has %d copies", s.Name, s.Config.Replicas)
			}
		}
	}
	if streams == 0 {
		t.Error("no streams")
	}
}

// onVolume checks that what a server stores outlives its container.
func onVolume(t *testing.T, p *types.Project, service, storeDir string) {
	t.Helper()
	s := p.Services[service]
	path := filepath.Join(s.WorkingDir, storeDir)
	for _, v := range s.Volumes {
		if v.Type == types.VolumeTypeVolume && s.WorkingDir != "" && strings.HasPrefix(path, v.Target+"/") {
			return
		}
	}
	t.Errorf("%s stores in %s, which is on no volume", service, path)
}

// TestPrometheusAndGrafanaFindEverything checks the names that the provisioned
// files share with compose and with each other.
func TestPrometheusAndGrafanaFindEverything(t *testing.T) {
	p := project(t, "single")
	var prometheus struct {
		Rules []string `yaml:"rule_files"`
		Jobs  []struct {
			Name string `yaml:"job_name"`
			DNS  []struct {
				Names []string `yaml:"names"`
				Port  int      `yaml:"port"`
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	decode(t, "deploy/prometheus/prometheus.yml", &prometheus)
	for _, file := range prometheus.Rules {
		if _, err := os.Stat(filepath.Join(root, "deploy/prometheus", file)); err != nil {
			t.Error(err)
		}
	}
	for _, job := range prometheus.Jobs {
		for _, name := range job.DNS[0].Names {
			if _, ok := p.Services[name]; !ok || name != job.Name {
				t.Errorf("job %s scrapes %s", job.Name, name)
			}
		}
		if job.Name == "nats" { // its exporter, in the server's own network
			if e := p.Services["nats-exporter"]; job.DNS[0].Port != 7777 || e.NetworkMode != "service:nats" {
				t.Errorf("job nats scrapes port %d of %s", job.DNS[0].Port, e.NetworkMode)
			}
			continue
		}
		if want := fmt.Sprintf("FETCH_HTTP_ADDR=0.0.0.0:%d\n", job.DNS[0].Port); !strings.Contains(read(t, "Dockerfile"), want) {
			t.Errorf("job %s: the image does not serve metrics on port %d", job.Name, job.DNS[0].Port)
		}
	}

	var sources struct {
		List []struct {
			UID string `yaml:"uid"`
			URL string `yaml:"url"`
		} `yaml:"datasources"`
	}
	decode(t, "deploy/grafana/provisioning/datasources/prometheus.yml", &sources)
	if sources.List[0].URL != "http://prometheus:9090" {
		t.Errorf("Grafana asks %s", sources.List[0].URL)
	}
	var boards struct {
		List []struct {
			Options struct {
				Path string `yaml:"path"`
			} `yaml:"options"`
		} `yaml:"providers"`
	}
	decode(t, "deploy/grafana/provisioning/dashboards/fetchworker.yml", &boards)
	mounted := false
	for _, v := range p.Services["grafana"].Volumes {
		mounted = mounted || v.Target == boards.List[0].Options.Path && strings.HasSuffix(v.Source, "deploy/grafana/dashboards")
	}
	if !mounted {
		t.Errorf("the dashboards are not mounted at %s", boards.List[0].Options.Path)
	}
	for name := range dashboards(t) {
		text := read(t, "deploy/grafana/dashboards/"+name)
		if strings.Count(text, `"uid": "prometheus"`) != strings.Count(text, `"type": "prometheus"`) || !strings.Contains(text, `"uid": "`+sources.List[0].UID+`"`) {
			t.Errorf("%s asks another source than %s", name, sources.List[0].UID)
		}
	}
}

// TestAlertsReachSomebody: Prometheus knows the Alertmanager of compose, every
// alert has a receiver, and what is silenced by another alert is one that is.
func TestAlertsReachSomebody(t *testing.T) {
	p := project(t, "single")
	var prometheus struct {
		Alerting struct {
			Managers []struct {
				Static []struct {
					Targets []string `yaml:"targets"`
				} `yaml:"static_configs"`
			} `yaml:"alertmanagers"`
		} `yaml:"alerting"`
	}
	decode(t, "deploy/prometheus/prometheus.yml", &prometheus)
	target := prometheus.Alerting.Managers[0].Static[0].Targets[0]
	host, port, err := hostPort(target)
	if err != nil || p.Services[host].Name == "" || int(p.Services[host].Ports[0].Target) != port {
		t.Errorf("Prometheus tells %s", target)
	}
	type route struct {
		Receiver string   `yaml:"receiver"`
		Matchers []string `yaml:"matchers"`
		Routes   []route  `yaml:"routes"`
	}
	var manager struct {
		Route     route `yaml:"route"`
		Receivers []struct {
			Name string `yaml:"name"`
		} `yaml:"receivers"`
		Inhibit []struct {
			Source []string `yaml:"source_matchers"`
			Target []string `yaml:"target_matchers"`
		} `yaml:"inhibit_rules"`
	}
	decode(t, "deploy/alertmanager/alertmanager.yml", &manager)
	receivers := map[string]bool{}
	for _, r := range manager.Receivers {
		receivers[r.Name] = true
	}
	for _, r := range append(manager.Route.Routes, manager.Route) {
		if !receivers[r.Receiver] {
			t.Errorf("a route leads to %q, which is no receiver", r.Receiver)
		}
	}
	known := map[string]bool{}
	for _, r := range alerts(t, memory{}).rules {
		known[r.Alert] = true
	}
	for _, rule := range manager.Inhibit {
		for _, matcher := range append(rule.Source, rule.Target...) {
			_, names, _ := strings.Cut(strings.TrimSuffix(matcher, `"`), `"`)
			for name := range strings.SplitSeq(names, "|") {
				if !known[name] {
					t.Errorf("%s: there is no such alert", matcher)
				}
			}
		}
	}
}

func decode(t *testing.T, file string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, file)), into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func hostPort(addr string) (string, int, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.Atoi(text)
	return host, port, err
}
