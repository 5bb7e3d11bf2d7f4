package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// oapiCodegen is the generator of Go clients that is tried.
const oapiCodegen = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2"

// generated runs generators of clients, which come from elsewhere.
var generated = os.Getenv("FETCH_GENERATE") != ""

// TestAGeneratedClientAsks has generators of clients, one of Go and one of
// TypeScript, read a running gateway's openapi.json with every provider that
// ships and those of the example catalogue in it. What they write compiles, asks
// and has its answer.
func TestAGeneratedClientAsks(t *testing.T) {
	if !generated {
		t.Skip("make generated-clients: it needs the module proxy, and npm for TypeScript")
	}
	begin(t)
	f := newFleet(t, well(0))
	catalogue, err := filepath.Abs("../examples/catalog.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f.env["FETCH_GATEWAY"], f.env["FETCH_GATEWAY_ADDR"], f.env["FETCH_CATALOG"] = "on", "127.0.0.1:0", catalogue
	worker := f.worker()
	door := "http://" + field(t, worker.says(t, `"serving"`), "gateway")
	status, document := get(t, door+"/openapi.json")
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, document)
	}
	t.Logf("openapi.json has %d bytes and %d paths", len(document), strings.Count(document, `"operationId":"ask_`))
	want := []string{"get 200 origin", "ask 200 from-", "answer 200", "mistake 400 urn:fetch:error:invalid_request"}
	t.Run("Go", func(t *testing.T) {
		c := newGenerated(t, "client-go", document)
		c.write("go.mod", "module asks\n\ngo 1.25\n")
		if err := os.Mkdir(filepath.Join(c.dir, "api"), 0o755); err != nil {
			t.Fatal(err)
		}
		c.run("go", "run", oapiCodegen, "-generate", "types,client", "-package", "api", "-o", "api/api.go", "openapi.json")
		c.run("go", "mod", "tidy")
		c.run("go", "vet", "./...")
		c.says(c.run("go", "run", ".", door), want)
	})
	t.Run("TypeScript", func(t *testing.T) {
		if _, err := exec.LookPath("npm"); err != nil {
			t.Skip("there is no npm")
		}
		c := newGenerated(t, "client-ts", document)
		c.run("npm", "install", "--no-audit", "--no-fund", "--silent")
		c.run("npx", "openapi-typescript", "openapi.json", "-o", "api.d.ts")
		c.run("npx", "tsc", "--strict", "--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext", "--types", "node", "--outDir", "out", "ask.ts")
		c.says(c.run("node", "out/ask.js", door), want)
	})
}

// client is a folder with a program and the document that its client is made of.
type client struct {
	t   *testing.T
	dir string
}

func newGenerated(t *testing.T, program, document string) *client {
	t.Helper()
	c := &client{t, t.TempDir()}
	if err := os.CopyFS(c.dir, os.DirFS(filepath.Join("testdata", program))); err != nil {
		t.Fatal(err)
	}
	c.write("openapi.json", document)
	return c
}

func (c *client) write(name, text string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) run(name string, args ...string) (said string) {
	c.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (c *client) says(said string, want []string) {
	c.t.Helper()
	c.t.Log(said)
	for _, text := range want {
		if !strings.Contains(said, text) {
			c.t.Errorf("it does not say %q", text)
		}
	}
}
