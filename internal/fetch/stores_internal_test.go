package fetch

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// When a stream counts as full: a little before it is, so that what is on its
// way then still finds room; one that forgets its oldest never does.
func TestWhenAStreamIsFull(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		config jetstream.StreamConfig
		state  jetstream.StreamState
		full   bool
	}{
		"no bound":                     {jetstream.StreamConfig{Discard: jetstream.DiscardNew}, jetstream.StreamState{Bytes: 1 << 40, Msgs: 1 << 30}, false},
		"no bound, by the server":      {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: -1, MaxMsgs: -1}, jetstream.StreamState{Bytes: 1 << 40, Msgs: 1 << 30}, false},
		"forgets, beyond its bytes":    {jetstream.StreamConfig{Discard: jetstream.DiscardOld, MaxBytes: mib, MaxMsgs: 1}, jetstream.StreamState{Bytes: mib, Msgs: 1}, false},
		"large, to its kept room":      {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: 1024 * mib}, jetstream.StreamState{Bytes: 1016 * mib}, false},
		"large, into its kept room":    {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: 1024 * mib}, jetstream.StreamState{Bytes: 1016*mib + 1}, true},
		"small, to a sixteenth":        {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: mib}, jetstream.StreamState{Bytes: mib - mib/16}, false},
		"small, into a sixteenth":      {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: mib}, jetstream.StreamState{Bytes: mib - mib/16 + 1}, true},
		"tiny, room for one more":      {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: 4096}, jetstream.StreamState{Bytes: 3072}, false},
		"tiny, and none":               {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxBytes: 4096}, jetstream.StreamState{Bytes: 3073}, true},
		"one message less than it may": {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxMsgs: 10}, jetstream.StreamState{Msgs: 9}, false},
		"all that it may":              {jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxMsgs: 10}, jetstream.StreamState{Msgs: 10}, true},
	} {
		if got := figuresOf(c.config, c.state); (got != "") != c.full {
			t.Errorf("%s: %q", name, got)
		}
	}
}
