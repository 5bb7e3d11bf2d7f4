package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"fetchworker"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// ErrStoreLost says that a store came up with less than it had. The server
// itself takes a damaged file for a shorter one, in silence.
var ErrStoreLost = errors.New("the store holds less than it did")

// witness is what the streams held, as a file beside them.
type witness struct {
	Whole   bool                `json:"whole"`   // written at an orderly end: nothing has changed since
	Streams map[string]standing `json:"streams"` // by name
}

type standing struct {
	Created  time.Time     `json:"created"`
	First    uint64        `json:"first_seq"`
	Last     uint64        `json:"last_seq"`
	Msgs     uint64        `json:"messages"`
	LastTime time.Time     `json:"last_time"`
	MaxAge   time.Duration `json:"max_age"` // nanoseconds
}

func witnessFile(dir string) string { return filepath.Join(dir, "fetchworker.state") }

// standingOf asks the server what its streams hold.
func standingOf(s *server.Server) (map[string]standing, error) {
	info, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Config: true})
	if err != nil {
		return nil, fmt.Errorf("what the streams hold: %w", err)
	}
	streams := map[string]standing{}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			streams[stream.Name] = standing{
				Created: stream.Created, First: stream.State.FirstSeq, Last: stream.State.LastSeq, Msgs: stream.State.Msgs,
				LastTime: stream.State.LastTime, MaxAge: stream.Config.MaxAge,
			}
		}
	}
	return streams, nil
}

// remember writes down what the streams hold. What cannot be written down is
// only not compared.
func remember(dir string, s *server.Server, whole bool) {
	streams, err := standingOf(s)
	if err != nil {
		return
	}
	text, _ := json.Marshal(witness{Whole: whole, Streams: streams}) // plain fields: cannot fail
	temporary := witnessFile(dir) + ".new"
	if os.WriteFile(temporary, text, 0o600) == nil {
		_ = os.Rename(temporary, witnessFile(dir))
	}
}

// missing lists what the streams held and hold no more, as far as it can be
// told. Without a witness that can be read it is nothing.
func missing(dir string, s *server.Server, now time.Time) ([]string, error) {
	text, err := os.ReadFile(witnessFile(dir))
	var before witness
	if err != nil || json.Unmarshal(text, &before) != nil {
		return nil, nil //nolint:nilerr // the first start, or a witness that was lost as well
	}
	if err := touch(s); err != nil {
		return nil, err
	}
	streams, err := standingOf(s)
	if err != nil {
		return nil, err
	}
	var lost []string
	for _, name := range slices.Sorted(maps.Keys(before.Streams)) {
		was := before.Streams[name]
		is, there := streams[name]
		switch {
		case !there && before.Whole:
			lost = append(lost, fmt.Sprintf("stream %s, with %d messages, is gone", name, was.Msgs))
		case !there || !is.Created.Equal(was.Created): // an operator's doing
		case is.Last < was.Last:
			lost = append(lost, fmt.Sprintf("stream %s ends at message %d, it ended at %d", name, is.Last, was.Last))
		case before.Whole && is.Msgs < was.least(name, is, now):
			lost = append(lost, fmt.Sprintf("stream %s holds %d messages, it held %d", name, is.Msgs, was.Msgs))
		}
	}
	return lost, nil
}

// growing are the streams of which nothing is taken but by age. Of the others
// somebody may take one while the server stops.
var growing = []string{fetchworker.StreamResults, wire.StreamAudit, fetchworker.StreamEvents, wire.StreamBudget}

// touch reads the first and the last message of every stream: the server
// believes its index at first, and finds that a block is damaged when it loads
// it. What it counts follows a moment after that read, so a stream of which the
// one or the other cannot be read is given a second for it. It may well be one
// that was taken out.
func touch(s *server.Server) error {
	streams, err := standingOf(s)
	if err != nil {
		return err
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return fmt.Errorf("look at the streams: %w", err)
	}
	defer nc.Close()
	for name, is := range streams {
		if is.Msgs == 0 {
			continue
		}
		for _, seq := range []uint64{is.First, is.Last} {
			there, err := reads(nc, name, seq)
			if err != nil {
				return err
			}
			if there || !slices.Contains(growing, name) {
				continue
			}
			if err := recounted(s, name, is); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// reads reports whether a stream gives a message.
func reads(nc *nats.Conn, stream string, seq uint64) (bool, error) {
	m, err := nc.Request("$JS.API.STREAM.MSG.GET."+stream, fmt.Appendf(nil, `{"seq":%d}`, seq), 10*time.Second)
	if err != nil {
		return false, fmt.Errorf("look at stream %s: %w", stream, err)
	}
	var said struct {
		Error *struct{} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &said); err != nil {
		return false, fmt.Errorf("look at stream %s: %w", stream, err)
	}
	return said.Error == nil, nil
}

// recounted waits until the server counts a stream's messages anew, or for a
// second.
func recounted(s *server.Server, stream string, was standing) error {
	waiting, enough := context.WithTimeout(context.Background(), time.Second)
	defer enough()
	for wait.For(waiting, 2*time.Millisecond) == nil {
		streams, err := standingOf(s)
		if is := streams[stream]; err != nil || is.Msgs != was.Msgs || is.First != was.First || is.Last != was.Last {
			return err
		}
	}
	return nil
}

// least is how many of its messages a stream must still hold: all that cannot
// have become too old meanwhile.
func (was standing) least(name string, is standing, now time.Time) uint64 {
	switch {
	case !slices.Contains(growing, name):
		return 0
	case was.MaxAge == 0:
		return was.Msgs
	case now.Sub(was.LastTime) < was.MaxAge && is.Msgs == 0 && was.Msgs > 0:
		return 1 // the last of them at least
	case is.First > was.First && is.First-was.First < was.Msgs:
		return was.Msgs - (is.First - was.First)
	case is.First > was.First:
		return 0
	}
	return was.Msgs
}
