// Package fetch turns each delivered request into exactly one end: a final
// answer, or a dead letter that will have one. fetch.go is the life of a
// request from top to bottom; decide.go says how a call ends, purely;
// endings.go says what becomes of the others; store.go writes it all down;
// worker.go is the loop around it.
//
// It holds no state that matters: a worker may be killed at any instant, and
// another one finishes what it held.
package fetch

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/budget"
	"fetchworker/internal/cache"
	"fetchworker/internal/cancel"
	"fetchworker/internal/intake"
	"fetchworker/internal/memory"
	"fetchworker/internal/providers"
	"fetchworker/internal/record"
	"fetchworker/internal/usage"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

// Config is what a worker is made of.
type Config struct {
	Name   string // unique in the fleet
	JS     jetstream.JetStream
	Large  jetstream.JetStream // for the fleet's cache to write to; nil: JS
	KV     jetstream.KeyValue  // fetch_providers
	Log    *record.Log
	Serve  []Served
	Rights *providers.Rights

	Retries   int           // after the first call
	RetryBase time.Duration // wait after the first failure
	MaxLife   time.Duration // of a request
	Drain     time.Duration // how long a stop waits for what is in flight
	Rest      time.Duration // from when on a shard rests that nothing comes into; 0: intake.RestAfter

	Logger  *zap.Logger
	Metrics prometheus.Registerer
	Tracer  trace.Tracer  // nil: nothing is traced, at no cost
	Cancels *cancel.Guard // what agents have cancelled; nil: nothing ever is
	Usage   *usage.Book   // who had what; nil: nobody counts
	// Memory is what large bodies may take; nil: as much as they need. The
	// providers' own calls are bounded by the same.
	Memory *memory.Budget
}

// Served is a provider with the gate to it.
type Served struct {
	Provider *providers.Provider
	Gate     *budget.Gate
	// Consumer is the name of its consumer of requests by lane and shard, or of
	// replay with the shard -1.
	Consumer func(lane fetchworker.Lane, shard int) string
	// Make makes sure that one exists, and tells since when it does and whether
	// it was made just now; nil: all exist.
	Make func(ctx context.Context, lane fetchworker.Lane, shard int) (since time.Time, made bool, err error)
}

// Worker serves its providers until it is stopped.
type Worker struct {
	name    string
	js      jetstream.JetStream
	kv      jetstream.KeyValue
	log     *record.Log
	answers *answer.Store
	served  map[string]*Served
	rights  *providers.Rights
	metrics *metrics
	usage   *usage.Book
	tracer  *tracer
	logger  *zap.Logger

	retries   int
	retryBase time.Duration
	maxLife   time.Duration
	drain     time.Duration

	intake   *intake.Intake // where work comes from
	held     *wait.Heart[*delivery]
	cache    *cache.Cache
	flights  *flights
	cancels  *cancels
	stirs    *stirs
	stores   *stores
	raws     *raws
	restarts *restarts
	used     *record.Looks // into the answers, under ids that agents chose
	memory   *memory.Budget
	parks    *semaphore.Weighted // that are stored at the same time
	inside   *semaphore.Weighted // shared by all that run, and held whole by a suspect that runs alone
	ends     chan string         // keys of suspicions that may be removed
	owed     sync.WaitGroup      // what must still be written to the bucket

	// Two contexts, because stopping is not killing: stopping ends when no
	// more work may be taken or waited with, working when work in flight must
	// end too.
	stopping, working context.Context //nolint:containedctx // the worker's own life
	pulled            chan struct{}   // closed when nothing is pulled any more
}

// New makes a worker; Run starts it.
func New(c Config) (*Worker, error) {
	waits := new(stirs)
	counts := newMetrics(c.Metrics, c.Serve)
	bodies, err := cache.New(c.JS, cmp.Or(c.Large, c.JS), c.Memory, c.Logger, counts.cacheDropped.Inc)
	if err != nil {
		return nil, err
	}
	w := &Worker{
		name: c.Name, js: c.JS, kv: c.KV, log: c.Log, answers: answer.New(c.Log), rights: c.Rights, logger: c.Logger,
		served:  make(map[string]*Served, len(c.Serve)),
		metrics: counts, usage: c.Usage, tracer: newTracer(c.Tracer),
		retries: c.Retries, retryBase: c.RetryBase, maxLife: c.MaxLife, drain: c.Drain,
		held:   wait.NewHeart[*delivery](),
		stores: newStores(c.JS, c.Log, c.Logger), raws: newRaws(c.Log),
		memory: c.Memory, inside: semaphore.NewWeighted(everyone), parks: semaphore.NewWeighted(parksAtOnce),
		ends:  make(chan string, endsWaiting),
		cache: bodies, flights: newFlights(), cancels: newCancels(c.Cancels, waits), stirs: waits,
		restarts: newRestarts(c.JS.Conn()),
	}
	for i := range c.Serve {
		w.served[c.Serve[i].Provider.Name] = &c.Serve[i]
	}
	if w.used, err = record.NewLooks(c.JS, fetchworker.StreamResults); err != nil {
		return nil, err
	}
	w.intake = intake.New(c.JS, cmp.Or(c.Rest, intake.RestAfter), w.shards())
	w.intake.Complain = func(s *intake.Shard, err error) {
		consumer := ""
		if s != nil {
			consumer = s.Consumer
		}
		w.logger.Debug("intake", zap.String("consumer", consumer), zap.Error(err))
	}
	w.intake.Remade = func(s *intake.Shard) {
		w.logger.Warn("a consumer was gone and is made again", zap.String("consumer", s.Consumer))
	}
	return w, nil
}

// Busy reports that requests are in this worker's hands.
func (w *Worker) Busy() bool { return w.held.Len() > 0 }

// Run works until stop ends. Then it pulls no more, hands back what waits,
// gives what is in flight the drain time to finish, and returns when nothing
// is left in its hands.
func (w *Worker) Run(stop context.Context) error {
	working, kill := context.WithCancelCause(context.WithoutCancel(stop))
	defer kill(nil)
	w.stopping, w.working, w.pulled = stop, working, make(chan struct{})

	unstirred := w.stirs.at(stop, working)
	defer unstirred()

	var background sync.WaitGroup
	turns := newHands(w.handle)
	background.Go(func() { w.held.Run(working) })
	background.Go(func() { w.cache.Run(working) })
	background.Go(func() { w.stores.run(working) })
	background.Go(func() { w.clearSuspects(working) })
	background.Go(func() { w.restarts.run(working) })

	w.intake.Deliver = func(s *intake.Shard, msg intake.Message, meta *nats.MsgMetadata) {
		d, err := newDelivery(msg, meta, s, w.held)
		if err != nil {
			// No answer could be stored under what it names.
			w.logger.Warn("dropped a message on a subject that is none", zap.Error(err))
			_ = msg.Term() // it comes again, if the connection is gone
			s.Start()
			s.End()
			return
		}
		w.held.Add(d)
		turns.give(d)
	}
	err := w.intake.Run(stop)
	close(w.pulled)
	deadline := time.AfterFunc(w.drain, func() { kill(errDrained) })
	turns.wait()
	w.owed.Wait()
	deadline.Stop()
	kill(nil)
	background.Wait()
	w.cache.Close()
	w.used.Close()
	return err
}

// errDrained is why work was broken off: the drain time was over.
var errDrained = errors.New("the drain time is over")

// shards are all that this worker may pull from.
func (w *Worker) shards() []*intake.Shard {
	var all []*intake.Shard
	for _, sv := range w.served {
		shut := func() bool { return w.stores.holds(sv.Provider.Name) != "" }
		add := func(s *intake.Shard) {
			s.Shut = shut
			if sv.Make != nil {
				s.Make = func(ctx context.Context) (time.Time, bool, error) { return sv.Make(ctx, s.Lane, s.Index) }
			}
			all = append(all, s)
		}
		for _, lane := range []fetchworker.Lane{fetchworker.LaneInteractive, fetchworker.LaneBatch} {
			for index := range wire.Shards {
				add(intake.Requests(sv.Provider.Name, sv.Consumer(lane, index), lane, index, sv.Gate.Pace))
			}
		}
		add(intake.Replays(sv.Provider.Name, sv.Consumer("", -1), sv.Gate.Pace))
	}
	return all
}

// handle brings one delivery to its end, or hands it back.
func (w *Worker) handle(d *delivery) {
	defer func() {
		switch d.leave(); {
		case d.large:
			w.memory.Ended()
		case !d.lesser:
			w.memory.Small()
		}
	}()
	for {
		ctx, span := w.tracer.turn(w.working, d)
		err := w.life(ctx, d)
		ended(span, err)
		switch {
		case err == nil, errors.Is(err, errPoison):
			w.cleared(d)
			return
		case w.stopping.Err() != nil:
			// Not before the last pull is gone: the server would give the message
			// to one of our own, where nobody is left to take it.
			<-w.pulled
			w.handBack(d, 0)
			return
		case errors.Is(err, errElsewhere):
			w.handBack(d, againAfter)
			return
		}
		// Ours is at fault, not the request: it begins anew, and nothing has been
		// counted against it. It stays in these hands: a delivery more would look
		// like one that killed its worker, and if it is this process that is cut
		// off, the server gives the message to another one by itself.
		w.logger.Warn("request begins anew", zap.String("subject", d.msg.Subject()), zap.Uint64("deliveries", d.count), zap.Error(err))
		d.again = true
		_ = wait.For(w.stopping, againAfter) // ended by a stop it ends above
	}
}

// againAfter keeps a message that meets a fault of ours from spinning.
const againAfter = 2 * time.Second
