package e2e

import (
	"bufio"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// serverRole is the argument that makes the test binary a NATS server.
const serverRole = "serve-nats"

// serveNATS runs a server with a configuration that is shipped here, moved to
// other ports and another directory. It never returns.
func serveNATS(args []string) {
	config, port, clusterPort, routes, dir := args[0], args[1], args[2], args[3], args[4]
	o, err := server.ProcessConfigFile(config)
	if err != nil {
		panic(err)
	}
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			panic(err)
		}
		return n
	}
	o.Port, o.HTTPPort = number(port), 0
	o.StoreDir = filepath.Join(dir, o.ServerName)
	if routes != "" {
		o.Cluster.Port, o.Routes = number(clusterPort), server.RoutesFromStr(routes)
	}
	s, err := server.NewServer(o)
	if err != nil {
		panic(err)
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	panic("the server ended")
}

// natsServer is a NATS server of its own process, with the accounts and
// passwords of development.env.
type natsServer struct {
	*process
	name string
	port int
	args []string
}

// oneServer starts a server as nats/server.conf has it.
func oneServer(t *testing.T) []*natsServer {
	t.Helper()
	port := brokertest.FreePort(t)
	s := &natsServer{name: "fetch", port: port, args: []string{serverRole, "../nats/server.conf", strconv.Itoa(port), "0", "", t.TempDir()}}
	s.start(t)
	return []*natsServer{s}
}

// plainServer starts a server without accounts in a folder, which syncs every
// write, and connects to it.
func plainServer(t *testing.T, dir string) (s *natsServer, nc *nats.Conn, url string) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "plain.conf")
	if err := os.WriteFile(config, []byte("server_name: plain\nlisten: 127.0.0.1:0\njetstream { sync_interval: always }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := brokertest.FreePort(t)
	s = &natsServer{name: "plain", port: port, args: []string{serverRole, config, strconv.Itoa(port), "0", "", dir}}
	s.start(t)
	url = "nats://127.0.0.1:" + strconv.Itoa(port)
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return s, nc, url
}

// threeServers starts a cluster as nats/cluster has it.
func threeServers(t *testing.T) []*natsServer {
	t.Helper()
	clusterPorts := []int{brokertest.FreePort(t), brokertest.FreePort(t), brokertest.FreePort(t)}
	var routes []string
	for _, port := range clusterPorts {
		routes = append(routes, "nats://route:"+passwords(t)["NATS_ROUTE_PASSWORD"]+"@127.0.0.1:"+strconv.Itoa(port))
	}
	dir := t.TempDir()
	var all []*natsServer
	for i, clusterPort := range clusterPorts {
		s := &natsServer{name: "n" + strconv.Itoa(i+1), port: brokertest.FreePort(t)}
		s.args = []string{serverRole, "../nats/cluster/" + s.name + ".conf", strconv.Itoa(s.port), strconv.Itoa(clusterPort), strings.Join(routes, ","), dir}
		s.start(t)
		all = append(all, s)
	}
	return all
}

// start starts the server, again after a kill, with what it had stored.
func (s *natsServer) start(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.process = launch(t, "nats "+s.name, self, passwords(t), s.args...)
	until(t, 30*time.Second, "a server listens", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(s.port))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// urls are the addresses of the servers for one of the shipped users.
func urls(t *testing.T, servers []*natsServer, user string) string {
	t.Helper()
	var list []string
	for _, s := range servers {
		u := url.URL{
			Scheme: "nats", Host: "127.0.0.1:" + strconv.Itoa(s.port),
			User: url.UserPassword(user, passwords(t)["NATS_"+strings.ToUpper(user)+"_PASSWORD"]),
		}
		list = append(list, u.String())
	}
	return strings.Join(list, ",")
}

// passwords are what development.env sets.
func passwords(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open("../nats/development.env")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	env := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok && !strings.HasPrefix(name, "#") {
			env[name] = strings.Trim(value, "'")
		}
	}
	return env
}
