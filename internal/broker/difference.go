package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// difference is what lies between a stream that stands and the topology.
type difference struct {
	config jetstream.StreamConfig // what it is to become
	needed []string               // what guarantees stand on
	other  []string               // what only should be so
	kept   []string               // an operator's decisions that stand
	losing []string               // decided, and left undone since it would lose something
	unmet  []string               // needed, and no update can bring it
	newer  bool                   // a newer version made it
}

// The server's names of the fields that are the contract's. All others of a
// stream that stands are its operator's.
var (
	neededFields = []string{
		"subjects", "retention", "storage", "discard", "discard_new_per_subject", "subject_transform", "republish",
		"max_msgs_per_subject", "allow_direct", "allow_rollup_hdrs", "allow_msg_ttl", "allow_msg_counter", "subject_delete_marker_ttl",
		"sealed", "no_ack",
	}
	otherFields = []string{"description", "max_msg_size", "duplicate_window", "deny_delete", "deny_purge"}
)

// needs are the fields that guarantees of a stream stand on, and the others.
// Without what the queues tell, workers keep all of their consumers.
func needs(want jetstream.StreamConfig) (needed, other []string) {
	if want.RePublish == nil || !want.RePublish.HeadersOnly {
		return neededFields, otherFields
	}
	needed = slices.DeleteFunc(slices.Clone(neededFields), func(name string) bool { return name == "republish" })
	return needed, append(slices.Clone(otherFields), "republish")
}

// compare finds what is to be done to a stream. It asks the server only where
// a smaller limit might delete.
func compare(ctx context.Context, nc *nats.Conn, stream jetstream.Stream, want jetstream.StreamConfig, o Options) (difference, error) {
	info := stream.CachedInfo()
	have := info.Config
	d := difference{config: have, newer: revision(have) > revision(want)}
	c := &d.config
	c.Description, c.Subjects, c.Retention, c.Storage = want.Description, want.Subjects, want.Retention, want.Storage
	c.Discard, c.DiscardNewPerSubject = want.Discard, want.DiscardNewPerSubject
	c.SubjectTransform, c.RePublish = want.SubjectTransform, want.RePublish
	c.MaxMsgsPerSubject, c.MaxMsgSize, c.Duplicates = want.MaxMsgsPerSubject, want.MaxMsgSize, want.Duplicates
	c.AllowDirect, c.AllowRollup, c.AllowMsgTTL, c.AllowMsgCounter = want.AllowDirect, want.AllowRollup, want.AllowMsgTTL, want.AllowMsgCounter
	c.SubjectDeleteMarkerTTL, c.DenyDelete, c.DenyPurge, c.NoAck = want.SubjectDeleteMarkerTTL, want.DenyDelete, want.DenyPurge, want.NoAck
	c.Metadata = maps.Clone(have.Metadata)
	if c.Metadata == nil {
		c.Metadata = map[string]string{}
	}
	maps.Copy(c.Metadata, want.Metadata)
	needed, other := needs(want)
	d.needed = append(d.needed, unlike(have, want, needed)...)
	d.other = append(d.other, unlike(have, want, other)...)
	if revision(have) < revision(want) {
		d.other = append(d.other, "an older version made it")
	}
	d.widths(info, want, o)
	if most := perSubject(want); perSubject(have) > most && info.State.Msgs > 0 {
		lost, err := beyond(ctx, nc, want.Name, most)
		if err != nil {
			return d, err
		}
		if lost > 0 && !o.AcceptLoss {
			c.MaxMsgsPerSubject = have.MaxMsgsPerSubject
			d.unmet = append(d.unmet, fmt.Sprintf("max_msgs_per_subject from %d to %d would delete %d messages (worker apply --accept-loss does it)", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject, lost))
		}
	}
	return d, nil
}

// widths are how many copies, how much and for how long: an operator's to
// decide. What is made narrower loses something.
func (d *difference) widths(info *jetstream.StreamInfo, want jetstream.StreamConfig, o Options) {
	have := info.Config
	results := want.Name == fetchworker.StreamResults || want.Name == fetchworker.StreamBodies
	_, ageDecided := o.Ages[want.Name]
	// Parts outlive every answer that names them: longer is no operator's choice.
	ageDecided = ageDecided || want.Name == fetchworker.StreamBodies && want.MaxAge > have.MaxAge && have.MaxAge > 0
	_, bytesDecided := o.Bytes[want.Name]
	for _, w := range []struct {
		name       string
		have, want int64
		decided    bool
		needed     bool
		show       func(int64) string
		lost       string
		set        func(int64)
	}{
		{
			"num_replicas", int64(have.Replicas), int64(want.Replicas), o.Replicas > 0, true,
			func(n int64) string { return strconv.FormatInt(n, 10) }, "copies that a failing server is survived by",
			func(n int64) { d.config.Replicas = int(n) },
		},
		{
			"max_age", unbounded(int64(have.MaxAge)), unbounded(int64(want.MaxAge)), ageDecided || results && o.ResultAge > 0, true,
			func(n int64) string { return showAge(time.Duration(n)) }, "what is older, and everything at that age from then on",
			func(n int64) { d.config.MaxAge = time.Duration(bounded(n, 0)) },
		},
		{
			"max_bytes", unbounded(have.MaxBytes), unbounded(want.MaxBytes), bytesDecided, false,
			showBytes, "the oldest beyond it",
			func(n int64) { d.config.MaxBytes = bounded(n, -1) },
		},
	} {
		switch {
		case w.have == w.want:
		case !w.decided:
			d.kept = append(d.kept, fmt.Sprintf("%s is %s and stays so (the standard is %s)", w.name, w.show(w.have), w.show(w.want)))
		case w.want > w.have || info.State.Msgs == 0 || o.AcceptLoss:
			w.set(w.want)
			line := fmt.Sprintf("%s is %s, want %s", w.name, w.show(w.have), w.show(w.want))
			if w.needed && w.want > w.have {
				d.needed = append(d.needed, line)
			} else {
				d.other = append(d.other, line)
			}
		default:
			d.losing = append(d.losing, fmt.Sprintf("%s from %s to %s would lose %s", w.name, w.show(w.have), w.show(w.want), w.lost))
		}
	}
	// Kept or decided: an answer must be there for as long as its request may live.
	if age := unbounded(int64(d.config.MaxAge)); results && o.MaxLife > 0 && age < int64(o.MaxLife+24*time.Hour) {
		d.unmet = append(d.unmet, fmt.Sprintf("max_age is %s: a request may live %s (FETCH_MAX_LIFE), and must end a day before its answer", showAge(time.Duration(age)), o.MaxLife))
	}
}

// beyond counts the messages that a limit for each subject would delete.
func beyond(ctx context.Context, nc *nats.Conn, stream string, most int64) (int64, error) {
	listed, err := wire.List(ctx, nc, stream, ">")
	if err != nil {
		return 0, fmt.Errorf("count the messages of each subject: %w", err)
	}
	var lost int64
	for _, n := range listed.Subjects {
		lost += max(0, int64(n)-most) //nolint:gosec // a stream holds fewer than 2^63
	}
	return lost, nil
}

func perSubject(c jetstream.StreamConfig) int64 { return unbounded(c.MaxMsgsPerSubject) }

// unbounded makes "any" the largest number, so that limits can be compared.
func unbounded(n int64) int64 {
	if n <= 0 {
		return math.MaxInt64
	}
	return n
}

func bounded(n, anything int64) int64 {
	if n == math.MaxInt64 {
		return anything
	}
	return n
}

func showAge(d time.Duration) string {
	if d == math.MaxInt64 {
		return "for ever"
	}
	return d.String()
}

func showBytes(n int64) string {
	switch {
	case n == math.MaxInt64:
		return "unlimited"
	case n >= gib:
		return fmt.Sprintf("%.4g GiB", float64(n)/gib)
	}
	return fmt.Sprintf("%d bytes", n)
}

func revision(c jetstream.StreamConfig) int {
	n, err := strconv.Atoi(c.Metadata[revisionKey])
	if err != nil {
		return 1 // made before streams carried it
	}
	return n
}

// Differences lists, one line each, where a stream is not as the topology has
// it, an operator's decisions included.
func Differences(have, want jetstream.StreamConfig) []string {
	return append(unlike(have, want, neededFields), unlike(have, want, append([]string{"num_replicas", "max_age", "max_bytes", "max_msgs", "max_consumers"}, otherFields...))...)
}

// unlike lists the fields that differ: the field, what it is, what is wanted.
func unlike(have, want jetstream.StreamConfig, names []string) []string {
	h, w := fields(have), fields(want)
	var lines []string
	for _, name := range slices.Sorted(slices.Values(names)) {
		if !reflect.DeepEqual(h[name], w[name]) {
			lines = append(lines, fmt.Sprintf("%s is %v, want %v", name, text(h[name]), text(w[name])))
		}
	}
	return lines
}

func fields(c jetstream.StreamConfig) map[string]any {
	b, _ := json.Marshal(c)
	m := map[string]any{}
	_ = json.Unmarshal(b, &m)
	return m
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
