// Package nats_test starts real servers with the configurations that are
// shipped here, and holds them to what they promise.
package nats_test

import (
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// development sets the passwords of development.env for this test, and so
// checks that the file names every variable that the configurations read.
func development(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("development.env")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			t.Setenv(name, strings.Trim(value, "'"))
		}
	}
}

// options reads a shipped configuration as the server does, and moves it to
// free ports and a directory of the test's.
func options(t *testing.T, file string) *server.Options {
	t.Helper()
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if ip := net.ParseIP(o.Host); ip == nil || !ip.IsLoopback() {
		t.Errorf("%s listens on %q: only loopback is safe without TLS", file, o.Host)
	}
	if !o.SyncAlways {
		t.Errorf("%s: an acknowledged write must be on the disk", file)
	}
	o.Port, o.HTTPPort = server.RANDOM_PORT, 0
	o.StoreDir = filepath.Join(t.TempDir(), o.ServerName)
	o.NoSigs, o.NoLog = true, true
	return o
}

func start(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatalf("%s is not ready", o.ServerName)
	}
	return s
}

// user connects as one of development.env's users, with an inbox of its own, as
// any client does: an agent's payload limit is below what the service needs.
func user(t *testing.T, s *server.Server, name string) *nats.Conn {
	t.Helper()
	u := url.URL{Scheme: "nats", Host: s.Addr().String(), User: url.UserPassword(name, os.Getenv("NATS_"+strings.ToUpper(name)+"_PASSWORD"))}
	nc, err := nats.Connect(u.String(), nats.Name("test "+name), nats.CustomInboxPrefix("_INBOX_"+name),
		nats.MaxReconnects(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// applied is the topology made by the admin, which no other user may.
func applied(t *testing.T, s *server.Server, replicas int) jetstream.JetStream {
	t.Helper()
	js := stream(t, user(t, s, "admin"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := broker.Apply(ctx, js, broker.Options{Replicas: replicas, ResultAge: 168 * time.Hour}, nil); err != nil {
		t.Fatal(err)
	}
	if err := broker.ServeDLQ(ctx, js); err != nil {
		t.Fatal(err)
	}
	return js
}

func stream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := broker.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestThreeServersCarryTheTopologyThreeTimes(t *testing.T) {
	development(t)
	files, err := filepath.Glob("cluster/n*.conf")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v %v", files, err)
	}
	all := make([]*server.Options, len(files))
	var routes []string
	for i, file := range files {
		all[i] = options(t, file)
		if len(all[i].Routes) != 3 {
			t.Errorf("%s names %d routes", file, len(all[i].Routes))
		}
		if all[i].Cluster.Username == "" || all[i].Cluster.Password == "" {
			t.Errorf("%s lets anybody join as a route", file)
		}
		all[i].Cluster.Port = brokertest.FreePort(t)
		routes = append(routes, "nats://route:"+all[i].Cluster.Password+"@127.0.0.1:"+strconv.Itoa(all[i].Cluster.Port))
	}
	var servers []*server.Server
	for _, o := range all {
		o.Routes = server.RoutesFromStr(strings.Join(routes, ","))
		servers = append(servers, start(t, o))
	}
	until(t, 30*time.Second, "a leader of the cluster", func() bool {
		for _, s := range servers {
			if s.JetStreamIsLeader() {
				return len(s.JetStreamClusterPeers()) == 3
			}
		}
		return false
	})
	js := applied(t, servers[0], 3)
	// A stream whose leader is just being elected is left out of the list.
	until(t, 30*time.Second, "all streams are listed", func() bool {
		list := js.ListStreams(t.Context())
		count := 0
		for info := range list.Info() {
			count++
			if info.Config.Replicas != 3 || info.Cluster == nil || len(info.Cluster.Replicas) != 2 {
				t.Fatalf("%s has %d replicas: %+v", info.Config.Name, info.Config.Replicas, info.Cluster)
			}
		}
		return list.Err() == nil && count == len(broker.Streams(broker.Options{}))
	})

	// Whoever says nothing of copies keeps three, and one who wants fewer has to
	// say so twice.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	copies := func() int {
		s, err := js.Stream(ctx, wire.StreamAudit)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().Config.Replicas
	}
	if _, err := stream(t, user(t, servers[0], "operator")).Publish(ctx, "fetch.audit.replay.fmp", nil); err != nil {
		t.Fatal(err)
	}
	losing := map[string][]string{}
	for _, o := range []broker.Options{{}, {Replicas: 1}} {
		if err := broker.Apply(ctx, js, o, func(a broker.Applied) { losing[a.Stream] = a.Losing }); err != nil {
			t.Fatal(err)
		}
		if n := copies(); n != 3 {
			t.Fatalf("%+v leaves %d copies", o, n)
		}
	}
	if lost := losing[wire.StreamAudit]; len(lost) != 1 || !strings.Contains(lost[0], "num_replicas from 3 to 1") {
		t.Errorf("it is not told: %v", lost)
	}
}

// Workers may not update streams: what an operator widened, or the next
// version changed, is no reason not to start, and what is missing is.
func TestWhoMayNotUpdateStartsUnlessAGuaranteeIsMissing(t *testing.T) {
	development(t)
	s := start(t, options(t, "server.conf"))
	admin := applied(t, s, 1)
	change := func(by func(*jetstream.StreamConfig)) {
		t.Helper()
		for _, name := range []string{fetchworker.StreamResults, fetchworker.StreamBodies} {
			found, err := admin.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			c := found.CachedInfo().Config
			by(&c)
			if name == fetchworker.StreamBodies {
				c.MaxAge += 2 * wire.BodyReuse // parts outlive what names them
			}
			if _, err := admin.UpdateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
	}
	begin := func(pairs ...string) (*observer.ObservedLogs, error) {
		core, logs := observer.New(zap.InfoLevel)
		config, err := app.Load(func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		})
		if err != nil {
			t.Fatal(err)
		}
		return logs, app.Topology(t.Context(), stream(t, user(t, s, "worker")), config, zap.New(core))
	}
	if logs, err := begin(); err != nil || logs.Len() != 0 {
		t.Errorf("as wanted: %v %v", err, logs.All())
	}
	change(func(c *jetstream.StreamConfig) {
		c.MaxBytes, c.Description, c.MaxAge, c.Duplicates = 4500<<20, "ours", 300*time.Hour, time.Minute
		c.Metadata["fetchworker.topology"] = "1"
	})
	for _, env := range [][]string{{}, {"FETCH_RESULT_AGE", "200h"}, {"FETCH_RESULT_AGE", "300h"}} {
		logs, err := begin(env...)
		if err != nil || logs.Len() == 0 {
			t.Errorf("%v: %v %v", env, err, logs.All())
		}
	}
	for what, env := range map[string][]string{
		"a longer age":         {"FETCH_RESULT_AGE", "400h"},
		"more copies":          {"FETCH_REPLICAS", "3"},
		"requests live longer": {"FETCH_RESULT_AGE", "", "FETCH_MAX_LIFE", "100h"},
	} {
		if what == "requests live longer" {
			change(func(c *jetstream.StreamConfig) { c.MaxAge = 110 * time.Hour })
		}
		if _, err := begin(env...); err == nil || !strings.Contains(err.Error(), fetchworker.StreamResults) {
			t.Errorf("%s: %v", what, err)
		}
		change(func(c *jetstream.StreamConfig) { c.MaxAge = 300 * time.Hour })
	}
	change(func(c *jetstream.StreamConfig) { c.RePublish = nil })
	if _, err := begin(); err == nil || !strings.Contains(err.Error(), "republish") {
		t.Errorf("nobody would see an answer: %v", err)
	}
}

// Who joins as a route may do anything in every account.
func TestAStrangerIsNoRoute(t *testing.T) {
	development(t)
	member := options(t, "cluster/n1.conf")
	member.Routes, member.Cluster.Port, member.JetStream = nil, brokertest.FreePort(t), false // alone it has no quorum
	s := start(t, member)
	for name, user := range map[string]string{"stranger": "", "friend": "route:" + member.Cluster.Password + "@"} {
		start(t, &server.Options{
			ServerName: name, Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "fetch", Host: "127.0.0.1", Port: server.RANDOM_PORT},
			Routes:  server.RoutesFromStr("nats://" + user + "127.0.0.1:" + strconv.Itoa(member.Cluster.Port)),
		})
	}
	until(t, 10*time.Second, "the friend joins", func() bool {
		routes, err := s.Routez(nil)
		if err != nil {
			t.Fatal(err)
		}
		joined := false
		for _, r := range routes.Routes {
			if r.RemoteName == "stranger" {
				t.Fatal("the stranger is a route")
			}
			joined = joined || r.RemoteName == "friend"
		}
		return joined
	})
}

func until(t *testing.T, within time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
