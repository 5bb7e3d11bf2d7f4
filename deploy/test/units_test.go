package deploy_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// object is what we look at of a Kubernetes object.
type object struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Data map[string]string `yaml:"stringData"`
	Spec struct {
		Selector struct {
			Labels map[string]string `yaml:"matchLabels"`
		} `yaml:"selector"`
		Target struct {
			Name string `yaml:"name"`
		} `yaml:"scaleTargetRef"`
		Triggers []struct {
			Metadata map[string]string `yaml:"metadata"`
		} `yaml:"triggers"`
		Template struct {
			Metadata struct {
				Labels map[string]string `yaml:"labels"`
			} `yaml:"metadata"`
			Spec struct {
				Grace      int         `yaml:"terminationGracePeriodSeconds"`
				Security   security    `yaml:"securityContext"`
				Containers []container `yaml:"containers"`
			} `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

type security struct {
	NonRoot  bool `yaml:"runAsNonRoot"`
	ReadOnly bool `yaml:"readOnlyRootFilesystem"`
}

type container struct {
	Image     string         `yaml:"image"`
	Security  security       `yaml:"securityContext"`
	Startup   map[string]any `yaml:"startupProbe"`
	Liveness  map[string]any `yaml:"livenessProbe"`
	Readiness map[string]any `yaml:"readinessProbe"`
	Env       []struct {
		Name string `yaml:"name"`
		From struct {
			Secret struct {
				Name string `yaml:"name"`
				Key  string `yaml:"key"`
			} `yaml:"secretKeyRef"`
		} `yaml:"valueFrom"`
	} `yaml:"env"`
}

func TestTheKubernetesExampleFitsTogether(t *testing.T) {
	byKind := map[string][]object{}
	for decoder := yaml.NewDecoder(strings.NewReader(read(t, "deploy/kubernetes/fetchworker.yaml"))); ; {
		var o object
		if err := decoder.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		byKind[o.Kind] = append(byKind[o.Kind], o)
	}
	names, compose := known(t), project(t, "single")
	secret := byKind["Secret"][0]
	for _, o := range append(byKind["Deployment"], byKind["Job"]...) {
		pod := o.Spec.Template.Spec
		if probes := pod.Containers[0]; o.Kind == "Deployment" && (probes.Startup == nil || probes.Liveness == nil || probes.Readiness == nil) {
			t.Errorf("%s has not all probes", o.Metadata.Name)
		}
		if !pod.Security.NonRoot || !pod.Containers[0].Security.ReadOnly {
			t.Errorf("%s is not hardened", o.Metadata.Name)
		}
		image := pod.Containers[0].Image
		if image != compose.Services["worker"].Image && image != compose.Services["replayer"].Image && image != compose.Services["gateway"].Image {
			t.Errorf("%s runs %s, which nobody builds", o.Metadata.Name, image)
		}
		for _, e := range pod.Containers[0].Env {
			if !names[e.Name] && !elsewhere[e.Name] {
				t.Errorf("%s is given %s, which nothing reads", o.Metadata.Name, e.Name)
			}
			if key := e.From.Secret.Key; key != "" {
				if _, ok := secret.Data[key]; !ok || e.From.Secret.Name != secret.Metadata.Name {
					t.Errorf("%s: no secret %s", o.Metadata.Name, key)
				}
			}
		}
		if o.Kind == "Deployment" && o.Spec.Template.Metadata.Labels["app"] != o.Spec.Selector.Labels["app"] {
			t.Errorf("%s does not select its own pods", o.Metadata.Name)
		}
	}
	worker := byKind["Deployment"][0]
	if worker.Spec.Template.Spec.Grace < 35 {
		t.Errorf("a drain of 30 s is cut off after %d", worker.Spec.Template.Spec.Grace)
	}
	if got := byKind["PodDisruptionBudget"][0].Spec.Selector.Labels["app"]; got != "fetchworker" {
		t.Errorf("the disruption budget is for %q", got)
	}
	scaler := byKind["ScaledObject"][0]
	if scaler.Spec.Target.Name != worker.Metadata.Name {
		t.Errorf("the scaler scales %s", scaler.Spec.Target.Name)
	}
	asked := map[string]string{}
	collect(t, scaler.Spec.Triggers[0].Metadata["query"], "the scaler", asked)
	for name := range asked {
		if !strings.Contains(sources(t), `"`+name+`"`) {
			t.Errorf("the scaler asks for %s, which nothing tells", name)
		}
	}
}

func TestTheSystemdUnitsFitTogether(t *testing.T) {
	units, err := filepath.Glob(filepath.Join(root, "deploy/systemd/*.service"))
	if err != nil || len(units) != 5 {
		t.Fatal(units, err)
	}
	names := known(t)
	for _, unit := range units {
		content, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		text, base := string(content), filepath.Base(unit)
		for _, want := range []string{"DynamicUser=yes", "StartLimitIntervalSec=0", "NoNewPrivileges=yes", "ProtectSystem=strict", "SystemCallFilter=@system-service"} {
			if !strings.Contains(text, want+"\n") {
				t.Errorf("%s has no %s", base, want)
			}
		}
		if !strings.Contains(text, "\n#LoadCredential=") || !strings.Contains(text, "\n#Environment=NATS_CREDS=%d/") {
			t.Errorf("%s does not say how its user reads credentials", base)
		}
		exec := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/(\w+) ?(\w*)$`).FindStringSubmatch(text)
		if exec == nil || !slices.Contains([]string{"worker", "worker apply", "replayer run", "replayer page", "gateway"}, strings.TrimSpace(exec[1]+" "+exec[2])) {
			t.Errorf("%s starts %v", base, exec)
		}
		file := regexp.MustCompile(`(?m)^EnvironmentFile=/etc/fetchworker/(\S+)$`).FindStringSubmatch(text)
		if file == nil {
			t.Errorf("%s has no environment", base)
			continue
		}
		env := read(t, "deploy/systemd/"+file[1])
		for _, m := range regexp.MustCompile(`(?m)^([A-Z_]+)=`).FindAllStringSubmatch(env, -1) {
			if !names[m[1]] {
				t.Errorf("%s sets %s, which nothing reads", file[1], m[1])
			}
		}
	}
}
