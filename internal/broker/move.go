package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"fetchworker"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Marks in a stream's metadata. FETCH_REQUESTS is moved first and is the last
// to lose its mark, so that no worker begins where a move has not ended.
const (
	movingKey = "fetchworker.moving" // at the new place: copying, and then the last sequence that was copied
	movedKey  = "fetchworker.moved"  // at the old place: where to
	wholeKey  = "fetchworker.moved.whole"
)

// copying marks what a restore makes until all of it is there. A cluster leaves
// a stream of one that was broken off, mark and all, of which servers may have
// copies that stay empty whatever is stored later.
const copying = "copying"

var (
	// ErrMoving says that a move to this server has not ended.
	ErrMoving = errors.New("a move to this server has not ended: run the same worker move again")
	// ErrMoved says that the streams are elsewhere by now.
	ErrMoved = errors.New("the streams of this server were moved away: work goes on there (worker apply --accept-loss, or worker --accept-loss with an embedded one, begins here again)")
	// ErrOccupied says that the new place holds something already.
	ErrOccupied = errors.New("holds something already, and a move overwrites nothing")
	// ErrStillWritten says that somebody writes to the old place.
	ErrStillWritten = errors.New("changes while it is copied: stop what writes to it, agents too, and run it again")
)

// Move is a move of all streams, with what their consumers have done, from one
// server to another; the consumers of the queues stay behind, see isQueue, and
// those of others find their place, see places.
// Sequences, times and headers stay as they are. No worker may work on either.
type Move struct {
	From, To jetstream.JetStream
	Name     string // of the new place, without passwords
	Replicas int    // copies there; 0: as many as here

	Tell func(stream, did string) // of each step
}

// Run moves, or goes on with a move that was interrupted at any point.
func (m *Move) Run(ctx context.Context) error {
	names, err := m.names(ctx)
	if err != nil {
		return err
	}
	whole := false
	err = patiently(ctx, func() (err error) {
		whole, err = m.leave(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if !whole {
		if err := m.bringAll(ctx, names); err != nil {
			return err
		}
	}
	slices.Reverse(names)
	for _, name := range names {
		err := patiently(ctx, func() error {
			return mark(ctx, m.To, name, func(metadata map[string]string) { delete(metadata, movingKey) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// bringAll copies what has changed until nothing has, and puts the consumers
// where they were.
func (m *Move) bringAll(ctx context.Context, names []string) error {
	const most = 5 // some of what is stored ends by itself meanwhile
	whole := false
	for rounds := 0; !whole; rounds++ {
		if rounds == most {
			return ErrStillWritten
		}
		whole = true
		for _, name := range names {
			copied := false
			err := patiently(ctx, func() (err error) {
				copied, err = m.bring(ctx, name)
				return err
			})
			if err != nil {
				return fmt.Errorf("move %s: %w", name, err)
			}
			whole = whole && !copied
		}
	}
	for _, name := range names {
		if isQueue(name) {
			continue
		}
		if err := patiently(ctx, func() error { return m.places(ctx, name) }); err != nil {
			return fmt.Errorf("move %s: %w", name, err)
		}
	}
	return patiently(ctx, func() error {
		return mark(ctx, m.From, fetchworker.StreamRequests, func(metadata map[string]string) { metadata[wholeKey] = "true" })
	})
}

// patiently does a step again for as long as what keeps it back may pass: a
// cluster elects, a server answers late, or has not given up yet what a killed
// move had begun. Each step may be done again at any point.
func patiently(ctx context.Context, step func() error) error {
	err := step()
	for begun := time.Now(); (isRestoring(err) || Passing(err)) && time.Since(begun) < movePatience && wait.For(ctx, time.Second) == nil; {
		err = step()
	}
	return err
}

// isRestoring says that a cluster has not given up yet what a killed move had
// begun.
func isRestoring(err error) bool {
	const nameInUse jetstream.ErrorCode = 10130
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == nameInUse
}

// names are the streams that are moved: requests first, and the shared state
// last, so that a register which does not come counts as lost.
func (m *Move) names(ctx context.Context) ([]string, error) {
	var names []string
	var configs []jetstream.StreamConfig
	for _, want := range Streams(Options{}) {
		stream, err := m.From.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) && want.Name != fetchworker.StreamRequests {
			continue // of a later version
		}
		if err != nil {
			return nil, fmt.Errorf("look up stream %s: %w", want.Name, err)
		}
		config := stream.CachedInfo().Config
		config.Replicas = cmp.Or(m.Replicas, config.Replicas)
		names, configs = append(names, want.Name), append(configs, config)
	}
	turn := func(name string) int {
		switch name {
		case fetchworker.StreamRequests:
			return 0
		case "KV_" + wire.BucketProviders:
			return 2
		default:
			return 1
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return turn(a) - turn(b) })
	return names, room(ctx, m.To, configs)
}

// leave marks the old place, so that nobody works on there.
func (m *Move) leave(ctx context.Context) (whole bool, err error) {
	other := ""
	err = mark(ctx, m.From, fetchworker.StreamRequests, func(metadata map[string]string) {
		if to := metadata[movedKey]; to != "" && to != m.Name {
			other = to
			return
		}
		metadata[movedKey], whole = m.Name, metadata[wholeKey] != ""
	})
	if other != "" {
		return false, fmt.Errorf("to %s: %w", other, ErrMoved)
	}
	return whole, err
}

// mark edits a stream's metadata.
func mark(ctx context.Context, js jetstream.JetStream, name string, edit func(map[string]string)) error {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", name, err)
	}
	config := stream.CachedInfo().Config
	before := maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = map[string]string{}
	}
	if edit(config.Metadata); maps.Equal(before, config.Metadata) {
		return nil
	}
	if _, err := js.UpdateStream(ctx, config); err != nil {
		return fmt.Errorf("mark stream %s: %w", name, err)
	}
	return nil
}

// bring makes the copy of a stream what the stream is now; copied is false
// where it is that already.
func (m *Move) bring(ctx context.Context, name string) (copied bool, err error) {
	source, err := m.From.Stream(ctx, name)
	if err != nil {
		return false, err
	}
	last := source.CachedInfo().State.LastSeq
	there, err := m.To.Stream(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
	case err != nil:
		return false, err
	default:
		info := there.CachedInfo()
		switch copiedTo := info.Config.Metadata[movingKey]; {
		case copiedTo == strconv.FormatUint(last, 10) && info.State.LastSeq == last:
			return false, nil
		case copiedTo == "" && info.State.LastSeq > 0:
			return false, ErrOccupied
		}
		if err := m.To.DeleteStream(ctx, name); err != nil { // empty, or a copy of ours
			return false, err
		}
	}
	state, err := m.copy(ctx, name)
	if err != nil {
		return false, err
	}
	err = patiently(ctx, func() error {
		return mark(ctx, m.To, name, func(metadata map[string]string) { metadata[movingKey] = strconv.FormatUint(state.LastSeq, 10) })
	})
	if err != nil {
		return false, err
	}
	m.Tell(name, fmt.Sprintf("%d messages, %d bytes", state.Messages, state.Bytes))
	return true, nil
}

// snapshotState is what a snapshot holds.
type snapshotState struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	LastSeq  uint64 `json:"last_seq"`
}

// movePatience is how long each step of a copy may take.
const movePatience = time.Minute

// copy takes the engine's own snapshot of a stream and restores it over there
// while it comes. The stream is there when all of it has come, or not at all.
func (m *Move) copy(ctx context.Context, name string) (state snapshotState, err error) {
	from, to := m.From.Conn(), m.To.Conn()
	inbox := from.NewRespInbox()
	chunks, err := from.SubscribeSync(inbox)
	if err != nil {
		return state, fmt.Errorf("snapshot: %w", err)
	}
	defer func() { _ = chunks.Unsubscribe() }() // the connection is gone then
	if err := chunks.SetPendingLimits(-1, -1); err != nil {
		return state, fmt.Errorf("snapshot: %w", err)
	}
	var snapshot struct {
		Config map[string]any  `json:"config"`
		State  json.RawMessage `json:"state"`
	}
	const chunk = 256 << 10
	if err := ask(ctx, from, "$JS.API.STREAM.SNAPSHOT."+name, map[string]any{"deliver_subject": inbox, "chunk_size": chunk, "no_consumers": isQueue(name)}, &snapshot); err != nil {
		return state, fmt.Errorf("snapshot: %w", err)
	}
	if err := json.Unmarshal(snapshot.State, &state); err != nil {
		return state, fmt.Errorf("snapshot: %w", err)
	}
	m.place(snapshot.Config)
	var restore struct {
		Subject string `json:"deliver_subject"`
	}
	if err := ask(ctx, to, "$JS.API.STREAM.RESTORE."+name, map[string]any{"config": snapshot.Config, "state": snapshot.State}, &restore); err != nil {
		return state, fmt.Errorf("restore: %w", err)
	}
	for {
		waiting, cancel := context.WithTimeout(ctx, movePatience)
		got, err := chunks.NextMsgWithContext(waiting)
		cancel()
		if err != nil {
			return state, fmt.Errorf("snapshot: %w", err)
		}
		if status := got.Header.Get("Status"); len(got.Data) == 0 && status != "" && status != "204" {
			return state, fmt.Errorf("snapshot: server says %s %s", status, got.Header.Get("Description"))
		}
		// The reply to the last, empty one is that all of it is stored.
		if err := send(ctx, to, restore.Subject, got.Data); err != nil {
			return state, fmt.Errorf("restore: %w", err)
		}
		if len(got.Data) == 0 {
			return state, nil
		}
		if got.Reply != "" {
			if err := from.Publish(got.Reply, nil); err != nil {
				return state, fmt.Errorf("snapshot: %w", err)
			}
		}
	}
}

// isQueue says that a stream's consumers stay behind: whoever works there makes
// them, and what they have done is gone from the stream. In a cluster a restored
// consumer is led now and then by a server whose copy of the stream was not
// whole yet, and then hands out nothing for good (seen with 2.15.3 in two of
// seven moves on a busy machine).
func isQueue(name string) bool {
	return name == fetchworker.StreamRequests || name == wire.StreamReplay || name == wire.StreamDLQ
}

// place is what the stream is over there.
func (m *Move) place(config map[string]any) {
	if m.Replicas > 0 {
		config["num_replicas"] = m.Replicas
	}
	delete(config, "placement")
	metadata, _ := config["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
	}
	delete(metadata, movedKey)
	metadata[movingKey] = copying
	config["metadata"] = metadata
}

// ask makes a request of the JetStream API.
func ask(ctx context.Context, nc *nats.Conn, subject string, request, reply any) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, movePatience)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		return err
	}
	if err := refused(m.Data); err != nil {
		return err
	}
	return json.Unmarshal(m.Data, reply)
}

// send sends a chunk, and waits until it is taken.
func send(ctx context.Context, nc *nats.Conn, subject string, chunk []byte) error {
	ctx, cancel := context.WithTimeout(ctx, movePatience)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, subject, chunk)
	if err != nil {
		return err
	}
	if len(m.Data) == 0 {
		return nil
	}
	return refused(m.Data)
}

func refused(reply []byte) error {
	var r struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply, &r); err != nil {
		return err
	}
	if r.Error != nil {
		return r.Error
	}
	return nil
}

// moves says whether a server's streams are on their way to it, or away.
func moves(config jetstream.StreamConfig) error {
	switch {
	case config.Metadata[movingKey] != "":
		return ErrMoving
	case config.Metadata[movedKey] != "":
		return fmt.Errorf("to %s: %w", config.Metadata[movedKey], ErrMoved)
	default:
		return nil
	}
}
