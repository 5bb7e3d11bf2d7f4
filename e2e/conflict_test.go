package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

// counting counts the answers of a server that say that another write of the
// same subject is in process.
type counting struct{ busy, wrong atomic.Int64 }

func (d *counting) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return &countedConn{c, d}, err
}

type countedConn struct {
	net.Conn
	d *counting
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.d.busy.Add(int64(bytes.Count(b[:n], []byte(`"err_code":10164`))))
	c.d.wrong.Add(int64(bytes.Count(b[:n], []byte(`"err_code":10071`))))
	return n, err
}

// TestWritersOfOneAnswerOnThreeServers has many write the answers of the same
// requests in any order to a replicated stream, whose leader changes again and
// again: no write fails, and the highest stays.
func TestWritersOfOneAnswerOnThreeServers(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("three servers that sync every write: with FETCH_CHAOS=full")
	}
	const writers, rounds = 8, 400
	servers := threeServers(t)
	admin := map[string]string{"NATS_URL": urls(t, servers, "admin"), "NATS_INBOX_PREFIX": "_INBOX_admin", "FETCH_REPLICAS": "3"}
	until(t, time.Minute, "the streams are there", func() bool {
		return launch(t, "worker apply", program("worker"), admin, "apply").ended(t, time.Minute) == 0
	})
	count := &counting{}
	connect := func() *record.Log {
		nc, err := nats.Connect(urls(t, servers, "worker"), nats.CustomInboxPrefix("_INBOX_worker"), nats.SetCustomDialer(count), nats.MaxReconnects(-1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := broker.JetStream(nc)
		if err != nil {
			t.Fatal(err)
		}
		return record.New(js, nil)
	}
	nc, err := nats.Connect(urls(t, servers, "admin"), nats.CustomInboxPrefix("_INBOX_admin"), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	changing, changed := context.WithCancel(t.Context())
	defer changed()
	var changes atomic.Int64
	var changer errgroup.Group
	changer.Go(func() error {
		for changing.Err() == nil {
			if m, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+fetchworker.StreamResults, nil, 5*time.Second); err == nil && strings.Contains(string(m.Data), `"success":true`) {
				changes.Add(1)
			}
			select {
			case <-time.After(3 * time.Second): //nolint:forbidigo // beside a context
			case <-changing.Done():
			}
		}
		return nil
	})
	var group errgroup.Group
	logs := make([]*record.Log, writers)
	for w := range logs {
		logs[w] = connect()
	}
	start := make([]chan struct{}, rounds)
	for n := range start {
		start[n] = make(chan struct{})
	}
	var arrived [rounds]atomic.Int32
	identity := func(n int) fetchworker.Identity {
		return fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprint("q-", n)}
	}
	for w, log := range logs {
		group.Go(func() error {
			for n := range rounds {
				if arrived[n].Add(1) == writers { // all at once
					close(start[n])
				}
				<-start[n]
				for _, generation := range rand.Perm(3) {
					a := fetchworker.Answer{Identity: identity(n), Status: fetchworker.StatusOK, Final: true, Generation: generation + 1, Calls: 1, Body: fmt.Appendf(nil, `{"writer":%d}`, w)}
					if generation < 2 {
						a.Status, a.Review = fetchworker.StatusFailed, true
						p := fetchworker.Failure(a.Identity, fetchworker.CodeRetriesExhausted, "tried")
						a.Problem, a.Body = &p, nil
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					out, err := log.Put(ctx, answer.Slot(a.Identity), a.Encode())
					cancel()
					if err != nil {
						return fmt.Errorf("a paid answer of %s would be called for again: %w", a.Identity, err)
					}
					if !out.Stored && out.Existing == nil {
						return fmt.Errorf("%s: neither stored nor told what stands", a.Identity)
					}
				}
			}
			return nil
		})
	}
	failed := group.Wait()
	changed()
	_ = changer.Wait()
	if failed != nil {
		t.Error(failed)
	}
	for n := range rounds {
		m, err := logs[0].Get(t.Context(), answer.Slot(identity(n)))
		if err != nil {
			t.Fatal(err)
		}
		if a, err := fetchworker.DecodeAnswer(fetchworker.ResultSubject(identity(n)), m.Header, m.Data); err != nil || a.Status != fetchworker.StatusOK || a.Generation != 3 {
			t.Errorf("%s: %+v %v", identity(n), a, err)
		}
	}
	t.Logf("%d writes of %d answers, %d changes of the leader: %d were told that another is in process, %d that another was faster",
		writers*rounds*3, rounds, changes.Load(), count.busy.Load(), count.wrong.Load())
	if count.busy.Load() == 0 {
		t.Error("nobody was in anybody's way (10164)")
	}
}
