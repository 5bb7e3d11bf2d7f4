package cache

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/memory"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// desk is a cache on a real bucket, on a clock of its own.
type desk struct {
	*Cache
	t       *testing.T
	b       *brokertest.Broker
	wire    *brokertest.Wire
	dropped int
	stop    func() // ends Run
}

func inBubble(t *testing.T, test func(t *testing.T, open func() *desk)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		var opened []func()
		open := func() *desk {
			d := &desk{t: t, b: b, wire: &brokertest.Wire{}}
			nc := b.ConnectThrough(t, d.wire)
			js, err := broker.JetStream(nc)
			if err != nil {
				t.Fatal(err)
			}
			if d.Cache, err = New(js, js, nil, zap.NewNop(), func() { d.dropped++ }); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { d.Run(ctx) })
			d.stop = func() { cancel(); running.Wait() }
			opened = append(opened, func() { d.stop(); d.Close(); nc.Close() })
			return d
		}
		defer b.Stop()
		defer func() {
			for _, end := range opened {
				end()
			}
		}()
		test(t, open)
	})
}

func body(n int, text string) []byte { return append(bytes.Repeat([]byte(" "), n), text...) }

func (d *desk) put(key string, e Entry) *Entry {
	e.FetchedAt = time.Now()
	e.CameAt = e.FetchedAt
	d.Put(key, &e)
	return &e
}

// here waits where it is.
func here(wait func() error) error { return wait() }

func (d *desk) get(key string) *Entry { return d.Get(d.t.Context(), key, Wanted{}, here) }

// A large body that is too old for who looks for it costs no memory and no turn.
func TestALargeBodyThatIsNotWantedStaysInTheCache(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		one, other := open(), open()
		one.put("key", Entry{Body: body(2<<20, "large"), ETag: "e"})
		one.stop()
		time.Sleep(time.Minute)
		waits := func(func() error) error { t.Error("it waited"); return context.Canceled }
		light := other.Get(t.Context(), "key", Wanted{Stored: time.Now(), Now: time.Now(), MaxAge: time.Second}, waits)
		if light == nil || !light.light || light.ETag != "e" || len(light.Body) > 0 || other.AtHand("key") != nil {
			t.Errorf("%+v", light)
		}
		if whole := other.Whole(t.Context(), "key", light, here); whole == nil || len(whole.Body) < 2<<20 {
			t.Error("its body is not back")
		}
		if young := open().Get(t.Context(), "key", Wanted{Stored: time.Now(), Now: time.Now(), MaxAge: time.Hour}, here); len(young.Body) < 2<<20 {
			t.Error("one that is wanted came without its body")
		}
	})
}

// What one worker keeps another finds, also what is queued as it stops.
func TestWhatIsKeptIsTheFleets(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		one, other := open(), open()
		bodies := map[string][]byte{}
		for i, size := range []int{0, 1, 100, worthZipping - 1, worthZipping, worthZipping + 1, 100 << 10, 2 << 20} {
			key := fmt.Sprint("k", i)
			bodies[key] = body(size, key)
			one.put(key, Entry{Body: bodies[key], ContentType: "text/plain", ETag: key, HTTPStatus: 200})
		}
		for i := range 130 { // of which some wait for the server's word
			key := fmt.Sprint("m", i)
			bodies[key] = []byte(key)
			one.put(key, Entry{Body: bodies[key], ETag: key, HTTPStatus: 200})
		}
		one.stop()
		synctest.Wait() // the last few are not acknowledged
		for key, want := range bodies {
			e := other.get(key)
			if e == nil || !bytes.Equal(e.Body, want) || e.ETag != key || e.HTTPStatus != 200 {
				t.Errorf("%s: %+v", key, e)
			}
		}
		if e := other.get("nothing"); e != nil {
			t.Errorf("%+v", e)
		}
	})
}

// A worker's memory is bounded, and what was used last is what it keeps.
func TestMemoryIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		d := open()
		const each = 1 << 20
		for i := range 70 {
			d.keep(fmt.Sprint(i), &Entry{Body: make([]byte, each)})
			d.AtHand("0") // used again and again
		}
		held := 0
		for i := range 70 {
			if d.AtHand(fmt.Sprint(i)) != nil {
				held++
			}
		}
		if held > localLimit/each || held < localLimit/each-2 {
			t.Errorf("%d bodies of 1 MiB at hand", held)
		}
		if d.AtHand("0") == nil || d.AtHand("1") != nil {
			t.Error("the one used last was dropped, or the one used first was not")
		}
		// A body that passes by counts with what it hides.
		for i := range 70 {
			key := fmt.Sprint("p", i)
			d.keep(key, &Entry{Body: make([]byte, each/2), passing: true, under: &Entry{Body: make([]byte, each/2)}})
		}
		if held = len(d.local); held > localLimit/each {
			t.Errorf("%d pairs of 1 MiB at hand", held)
		}
		for i := range 70 { // the same again is no more
			d.keep("same", &Entry{Body: make([]byte, i<<10)})
		}
		if d.bytes > localLimit || d.bytes < 0 {
			t.Errorf("%d bytes count as held", d.bytes)
		}
	})
}

// The bound of what waits to be written is one of the moment: what has been
// written makes room, and what is beyond it is forgotten and counted.
func TestTheQueueEmpties(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		d, other := open(), open()
		random := rand.NewChaCha8([32]byte{})
		big := func() []byte {
			b := make([]byte, 1<<20)
			_, _ = random.Read(b)
			return b
		}
		for i := range 70 {
			d.put(fmt.Sprint("b", i), Entry{Body: big()}) // too large for the bucket, and counted while it waits
			time.Sleep(100 * time.Millisecond)
		}
		if d.dropped > 0 {
			t.Errorf("%d writes dropped of a queue that was empty", d.dropped)
		}
		d.put("last", Entry{Body: []byte("last")})
		time.Sleep(time.Second)
		if e := other.get("last"); e == nil {
			t.Error("after 70 MiB nothing comes through any more")
		}
		d.stop() // nobody writes now
		for i := range 70 {
			d.put(fmt.Sprint("c", i), Entry{Body: big()})
		}
		if d.dropped < 5 || d.queued.Load() > queuedLimit {
			t.Errorf("%d dropped, %d bytes queued", d.dropped, d.queued.Load())
		}
	})
}

// What cannot be read is as good as absent, whatever it is.
func TestWhatCannotBeReadIsAbsent(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		d := open()
		kv, err := d.b.JS.KeyValue(t.Context(), wire.BucketCache)
		if err != nil {
			t.Fatal(err)
		}
		good := d.encode(nil, &Entry{Body: body(worthZipping, "x"), FetchedAt: time.Now()})
		values := map[string][]byte{"empty": {}, "long": {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, "text": []byte("?")}
		for i := 0; i < len(good); i += 7 {
			values[fmt.Sprint("cut", i)] = good[:i]
		}
		for key, value := range values {
			if _, err := kv.Put(t.Context(), key, value); err != nil {
				t.Fatal(err)
			}
			if e := d.get(key); e != nil {
				t.Errorf("%s: %+v", key, e)
			}
		}
		d.keep("text", &Entry{Body: []byte("mine")})
		if e := d.get("text"); e == nil || string(e.Body) != "mine" {
			t.Errorf("what is at hand beside it: %+v", e)
		}
		// Nor does an answer that never comes hold anybody up for long.
		d.wire.Break("DIRECT.GET", brokertest.ReplyLost, 1, 0)
		began := time.Now()
		if e := d.get("empty"); e != nil || time.Since(began) > 3*time.Second {
			t.Errorf("%+v after %v", e, time.Since(began))
		}
	})
}

// What a body that passes by hides, validators that have failed, and a write
// under way, each against the fleet's entry.
func TestWhatStandsBesideTheFleets(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		d, other := open(), open()
		d.put("k", Entry{Body: []byte("kept"), ETag: "1"})
		time.Sleep(time.Second)
		d.put("k", Entry{Body: []byte("passing"), passing: true})
		if e := d.AtHand("k"); string(e.Body) != "passing" || e.Lasting() == nil || string(e.Lasting().Body) != "kept" {
			t.Errorf("%+v", e)
		}
		if e := d.get("k"); string(e.Body) != "passing" || string(e.Lasting().Body) != "kept" {
			t.Errorf("read: %+v", e)
		}
		if e := other.get("k"); string(e.Body) != "kept" {
			t.Errorf("of the fleet: %+v", e)
		}
		// Another's is newer.
		time.Sleep(time.Second)
		other.put("k", Entry{Body: []byte("newer"), ETag: "1"})
		time.Sleep(time.Second)
		if e := d.get("k"); string(e.Body) != "newer" {
			t.Errorf("%+v", e)
		}
		// Ours is, and on its way.
		d.stop()
		mine := d.put("k", Entry{Body: []byte("mine"), ETag: "1"})
		if e := d.get("k"); e != mine {
			t.Errorf("a newer one whose write is under way: %+v", e)
		}
		// Validators that have failed are not sent with the next body that has them.
		other.Refuse("k", other.AtHand("k"))
		if !other.AtHand("k").Refused() {
			t.Error("not refused")
		}
		if other.put("k", Entry{Body: []byte("next"), ETag: "1"}); !other.AtHand("k").Refused() {
			t.Error("the same validators again")
		}
		if other.put("k", Entry{Body: []byte("next"), ETag: "2"}); other.AtHand("k").Refused() {
			t.Error("others are refused")
		}
	})
}

// One worker at a time says that it makes a call, until it says that it is
// over or is forgotten.
func TestAClaimIsOnes(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		one, other := open(), open()
		var last Claim
		claim := func(d *desk, key string) bool {
			t.Helper()
			c, err := d.Claim(t.Context(), key, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if c.Mine {
				last = c
			}
			return c.Mine
		}
		if !claim(one, "k2") || last.After {
			t.Error("a first claim comes after nobody's")
		}
		if !claim(one, "k") {
			t.Error("nobody has it, and one may not")
		}
		mine := last
		if claim(other, "k") || claim(one, "k") || !claim(other, "k3") {
			t.Error("a claim is not one's alone")
		}
		if held, err := other.Claimed(t.Context(), "k"); err != nil || !held {
			t.Errorf("held %t: %v", held, err)
		}
		one.put("k", Entry{Body: []byte("came")})
		one.Over("k", mine)
		time.Sleep(100 * time.Millisecond)
		if held, err := other.Claimed(t.Context(), "k"); err != nil || held {
			t.Errorf("over, and held %t: %v", held, err)
		}
		if e := other.get("k"); e == nil {
			t.Error("over, and the body is not there")
		}
		if !claim(other, "k") || !last.After {
			t.Errorf("over, and nobody else can have it, or is told of it: %+v", last)
		}
		time.Sleep(20 * time.Second) // whoever had it has died
		late := last
		if !claim(one, "k") {
			t.Error("a claim outlives its worker")
		}
		other.Over("k", late) // it was only slow
		time.Sleep(100 * time.Millisecond)
		if held, err := other.Claimed(t.Context(), "k"); err != nil || !held {
			t.Errorf("a claim was ended by whose own had run out: %v", err)
		}
	})
}

// A body that the bucket does not keep is at hand where it came, and the fleet
// has the one before.
func TestABodyTooLargeForTheBucketStaysAtHand(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		one, other := open(), open()
		one.put("k", Entry{Body: []byte("before")})
		time.Sleep(time.Second)
		noise := make([]byte, cachedLimit+1)
		rng := rand.New(rand.NewPCG(1, 2))
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		for _, size := range []int{cachedLimit - 1<<10, cachedLimit + 1} { // the second of them with its head
			key := fmt.Sprint("n", size)
			one.put(key, Entry{Body: noise[:size]})
			time.Sleep(time.Second)
			if e := other.get(key); (e != nil) != (size < cachedLimit) {
				t.Errorf("%d bytes: %t", size, e != nil)
			}
			if e := one.AtHand(key); e == nil || len(e.Body) != size {
				t.Errorf("%d bytes are not at hand", size)
			}
		}
	})
}

// That a body has not changed says nothing of the one that has come meanwhile.
func TestWhatHasNotChangedIsThatBody(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		one, other := open(), open()
		large := body(2<<20, "first")
		one.put("k", Entry{Body: large, ETag: "1"})
		time.Sleep(time.Second)
		light := other.Get(t.Context(), "k", Wanted{Stored: time.Now().Add(time.Hour), Now: time.Now().Add(time.Hour), MaxAge: time.Second}, here)
		if light == nil || light.Body != nil {
			t.Fatalf("%+v", light)
		}
		if e := other.Unchanged(t.Context(), "k", light, here); e == nil || !bytes.Equal(e.Body, large) {
			t.Error("the body that has not changed is gone")
		}
		one.put("k", Entry{Body: body(2<<20, "next"), ETag: "2"})
		time.Sleep(time.Second)
		third := open()
		if e := third.Unchanged(t.Context(), "k", light, here); e != nil {
			t.Errorf("%q is told as the body that has not changed", e.Body[len(e.Body)-8:])
		}
	})
}

// A claim has its time to live from the server, a little more than a call may
// take: whoever made it may die. (What ends when, in a bubble, the server judges
// by a clock outside of it.)
func TestAClaimRunsOut(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		one := open()
		for lasts, want := range map[time.Duration]string{0: "1", 1500 * time.Millisecond: "2", 30 * time.Second: "31"} {
			key := fmt.Sprint("k", lasts.Milliseconds())
			if c, err := one.Claim(t.Context(), key, lasts); err != nil || !c.Mine {
				t.Fatalf("%+v %v", c, err)
			}
			m, err := one.b.NC.RequestWithContext(t.Context(), "$JS.API.DIRECT.GET."+stream+"."+claimSubject(key), nil)
			if err != nil || m.Header.Get(jetstream.MsgTTLHeader) != want {
				t.Errorf("a claim for %v: %v %v", lasts, m, err)
			}
		}
	})
}

// What is left of a claim that is over goes by itself, and what the server puts in
// the place of one that ran out holds nobody.
func TestWhatIsLeftOfAClaimHoldsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		one := open()
		mine, err := one.Claim(t.Context(), "k", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		one.Over("k", mine)
		time.Sleep(100 * time.Millisecond)
		m, err := one.b.NC.RequestWithContext(t.Context(), "$JS.API.DIRECT.GET."+stream+"."+claimSubject("k"), nil)
		if err != nil || m.Header.Get(jetstream.MsgTTLHeader) != "60" {
			t.Errorf("what is over is kept: %v %v", m, err)
		}
		mark := nats.NewMsg(claimSubject("timed-out")) // as the server would
		mark.Header.Set(jetstream.MarkerReasonHeader, "MaxAge")
		if _, err := one.b.JS.PublishMsg(t.Context(), mark); err != nil {
			t.Fatal(err)
		}
		if held, err := one.Claimed(t.Context(), "timed-out"); held || err != nil {
			t.Errorf("held %t, %v", held, err)
		}
		if c, err := one.Claim(t.Context(), "timed-out", time.Minute); !c.Mine || !c.After || err != nil {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

// TestTheModelOfACache plays workers at random beside a model that knows
// everything: what a worker gets for a key is what somebody put there, never
// older than what it has put itself, and what the fleet has once all is written.
func TestTheModelOfACache(t *testing.T) {
	for seed := range uint64(5) {
		inBubble(t, func(t *testing.T, open func() *desk) {
			rng := rand.New(rand.NewPCG(seed, 1))
			workers := []*desk{open(), open(), open()}
			type put struct {
				n       int
				passing bool
			}
			all := map[string]put{} // by body
			newest := map[string]map[*desk]int{}
			fleets := map[string]int{}
			for n := 1; n <= 300; n++ {
				d, key := workers[rng.IntN(3)], fmt.Sprint("k", rng.IntN(4))
				if newest[key] == nil {
					newest[key] = map[*desk]int{}
				}
				time.Sleep(time.Duration(1+rng.IntN(3)) * time.Millisecond)
				if rng.IntN(2) == 0 {
					text := fmt.Sprint(key, " ", n)
					p := put{n, rng.IntN(3) == 0}
					all[text] = p
					d.put(key, Entry{Body: []byte(text), passing: p.passing})
					if newest[key][d] = n; !p.passing {
						fleets[key] = n
					}
					continue
				}
				e := d.get(key)
				if e == nil {
					if newest[key][d] > 0 {
						t.Fatalf("seed %d, %d: what it had put is gone", seed, n)
					}
					continue
				}
				p, known := all[string(e.Body)]
				if !known || p.passing != e.passing || p.n < newest[key][d] {
					t.Fatalf("seed %d, %d: %s, and it has put %d", seed, n, e.Body, newest[key][d])
				}
				if l := e.Lasting(); l != nil && all[string(l.Body)].passing {
					t.Fatalf("seed %d, %d: %s lasts", seed, n, l.Body)
				}
			}
			time.Sleep(time.Second)
			fresh := open()
			for key, n := range fleets {
				if e := fresh.get(key); e == nil || all[string(e.Body)].passing || all[string(e.Body)].n > n {
					t.Errorf("seed %d: %s: %+v of %d", seed, key, e, n)
				}
			}
		})
	}
}

// That a provider has refused a body's validators is known also when the
// fleet's entry is read again.
func TestARefusalOutlastsTheNextRead(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		d := open()
		e := d.put("k", Entry{Body: []byte("x"), ETag: "e"})
		time.Sleep(time.Second)
		d.Refuse("k", e)
		if got := d.get("k"); got == nil || !got.Refused() {
			t.Errorf("%+v", got)
		}
	})
}

// What the bucket cannot keep up with is forgotten, and its room with it.
func TestWhatIsDroppedTakesNoRoom(t *testing.T) {
	inBubble(t, func(t *testing.T, open func() *desk) {
		d := open()
		d.stop() // nobody writes
		size := int64(0)
		for range writesWaiting + 50 {
			size = int64(d.put("k", Entry{Body: []byte("x")}).size("k"))
		}
		if got := d.queued.Load(); got != writesWaiting*size || d.dropped != 50 {
			t.Errorf("room for %d of %d that wait, %d dropped", got/size, writesWaiting, d.dropped)
		}
	})
}

// A large body that another hides is large.
func TestALargeBodyUnderAnother(t *testing.T) {
	under := &Entry{Body: make([]byte, memory.Small+1)}
	e := &Entry{Body: []byte("x"), passing: true, under: under}
	if !e.large() || e.Light() == e {
		t.Error("it would be held on to")
	}
}
