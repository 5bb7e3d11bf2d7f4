package budget

import (
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/store"
)

// An election swallows the first answers to a watch that is opened anew: the one
// after them has all, and soon. Where a server only is slow, it is waited for.
func TestAWatchIsOpenSoonAfterAnElection(t *testing.T) {
	for _, c := range []struct {
		fault brokertest.Fault
		times int
		late  time.Duration
		most  time.Duration
	}{
		{brokertest.RequestLost, 1, 0, 1500 * time.Millisecond},
		{brokertest.RequestLost, 3, 0, 4 * time.Second},
		{brokertest.ReplyLate, 1 << 20, 3 * time.Second, 20 * time.Second},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := brokertest.StartIn(t, dir, "")
			defer b.Stop()
			var cable brokertest.Wire
			js, end := b.Through(t, &cable)
			defer end()
			m, err := store.NewMirror(t.Context(), js, b.KV, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			var told []time.Time
			defer m.Follow(&store.Follower{See: func(store.Entry) {}, Lost: func() {}, All: func() { told = append(told, time.Now()) }})()
			synctest.Wait()
			cable.Break("CONSUMER.DELETE.", brokertest.RequestLost, 1<<20, 0)
			cable.Break("CONSUMER.CREATE.KV_"+store.Bucket, c.fault, c.times, c.late)
			began := time.Now()
			m.Reopen()
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if len(told) != 2 || told[1].Sub(began) > c.most {
				t.Errorf("%+v: all was told at %v, from %v on", c, told, began)
			}
		})
	}
}
