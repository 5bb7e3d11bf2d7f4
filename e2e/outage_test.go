package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

// TestTheServerIsKilledWhileWorkersWork kills the NATS server again and again
// and starts it anew; nobody restarts a worker.
func TestTheServerIsKilledWhileWorkersWork(t *testing.T) {
	begin(t)
	servers := oneServer(t)
	f := withServers(t, servers, 1)
	outages := 0
	f.workThrough(pick(200, 1000), func() {
		time.Sleep(2 * time.Second)
		servers[0].kill()
		time.Sleep(time.Duration(rand.Int64N(int64(pick(2*time.Second, 4*time.Second)))))
		servers[0].start(t)
		outages++
	})
	t.Logf("%d outages: %v", outages, f.statuses())
}

// TestAClusterLosesItsLeader kills the leader of the requests' stream in a
// cluster of three, and starts it again while the others carry on.
func TestAClusterLosesItsLeader(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("three servers that sync every write: with FETCH_CHAOS=full")
	}
	servers := threeServers(t)
	f := withServers(t, servers, 3)
	var leaders []string
	f.workThrough(600, func() {
		time.Sleep(3 * time.Second)
		leader := f.leader(servers)
		leaders = append(leaders, leader.name)
		leader.kill()
		time.Sleep(10 * time.Second)
		leader.start(t)
		// Only one may be away at a time.
		until(t, time.Minute, "the cluster is whole again", func() bool { return f.whole() })
	})
	t.Logf("killed %v: %v", leaders, f.statuses())
}

// withServers is a fleet on servers of their own, with the shipped accounts:
// alice asks, the admin looks.
func withServers(t *testing.T, servers []*natsServer, replicas int) *fleet {
	t.Helper()
	f := onServers(t, servers, replicas)
	f.worker()
	f.worker()
	f.replayer()
	return f
}

// onServers is withServers before anybody works.
func onServers(t *testing.T, servers []*natsServer, replicas int, sizes ...string) *fleet {
	t.Helper()
	admin := map[string]string{
		"NATS_URL": urls(t, servers, "admin"), "NATS_INBOX_PREFIX": "_INBOX_admin", "FETCH_REPLICAS": fmt.Sprint(replicas),
	}
	for _, size := range sizes {
		name, value, _ := strings.Cut(size, "=")
		admin[name] = value
	}
	// A cluster that is just starting has no leader yet.
	until(t, time.Minute, "the streams are there", func() bool {
		p := launch(t, "worker apply", program("worker"), admin, "apply")
		return p.ended(t, time.Minute) == 0
	})
	connect := func(user string) *nats.Conn {
		// Not as a service does: alice may not send what a service must.
		nc, err := nats.Connect(urls(t, servers, user), nats.Name("test "+user), nats.CustomInboxPrefix("_INBOX_"+user),
			nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	f := withServer(t, well(50*time.Millisecond), connect("alice"), connect("admin"), map[string]string{
		"NATS_URL": urls(t, servers, "worker"), "NATS_INBOX_PREFIX": "_INBOX_worker", "FETCH_REPLICAS": fmt.Sprint(replicas),
	})
	f.replayEnv = map[string]string{"NATS_URL": urls(t, servers, "replayer"), "NATS_INBOX_PREFIX": "_INBOX_replayer"}
	return f
}

// workThrough publishes requests over some time, repeats the disturbance for
// as long, and checks that all have ended.
func (f *fleet) workThrough(requests int, disturb func()) {
	f.t.Helper()
	var publishing errgroup.Group
	var published atomic.Bool
	publishing.Go(func() error {
		defer published.Store(true)
		for i := range requests {
			r := fetchworker.Request{Provider: "fmp", Operation: "quote", Agent: "alice"}
			if err := f.ask(r, fmt.Sprint("S", i)); err != nil {
				return err
			}
			time.Sleep(30 * time.Millisecond)
		}
		return nil
	})
	for !published.Load() {
		disturb()
	}
	if err := publishing.Wait(); err != nil {
		f.t.Fatal(err)
	}
	f.settled(2 * time.Minute)
}

// leader is the server that leads the requests' stream.
func (f *fleet) leader(servers []*natsServer) *natsServer {
	f.t.Helper()
	return f.leaderOf(fetchworker.StreamRequests, servers)
}

// leaderOf is the server that leads a stream.
func (f *fleet) leaderOf(stream string, servers []*natsServer) (leader *natsServer) {
	f.t.Helper()
	until(f.t, time.Minute, "the stream has a leader", func() bool {
		s, err := f.js.Stream(f.t.Context(), stream)
		if err != nil {
			return false
		}
		for _, one := range servers {
			if cluster := s.CachedInfo().Cluster; cluster != nil && cluster.Leader == one.name {
				leader = one
			}
		}
		return leader != nil
	})
	return leader
}

// whole reports whether every copy of every stream is up to date.
func (f *fleet) whole() bool {
	streams := f.js.ListStreams(f.t.Context())
	whole := true
	for info := range streams.Info() {
		for _, replica := range info.Cluster.Replicas {
			whole = whole && replica.Current && !replica.Offline
		}
		whole = whole && info.Cluster.Leader != ""
	}
	return whole && streams.Err() == nil
}
