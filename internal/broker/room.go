package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrNoRoom says that the server does not have what the streams reserve.
var ErrNoRoom = errors.New("the server has too little room")

// The server's codes for a reservation that it cannot make: alone, and in a
// cluster where too few servers can.
const (
	codeNoStorage = 10047
	codeNoPeers   = 10005
)

// probeStream is made and deleted again to ask the server for room, which it
// tells in no other way. It holds nothing.
const probeStream = "FETCH_ROOM"

// room asks whether what the missing streams reserve is there, before the
// first of them is made. Its error says how much is needed and how much there
// is.
func room(ctx context.Context, js jetstream.JetStream, want []jetstream.StreamConfig) error {
	var need int64
	replicas := 1
	for _, config := range want {
		if config.MaxBytes <= 0 {
			continue
		}
		_, err := lookUp(ctx, js, config.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			need += config.MaxBytes
			replicas = config.Replicas
		case err != nil:
			return err
		}
	}
	if need == 0 {
		return nil
	}
	fits := func(n int64) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := refusable(ctx, js, func(ctx context.Context) error {
			_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{ // one may be left of an apply that was killed
				Name: probeStream, Subjects: []string{"fetch.room"}, MaxBytes: n, Replicas: replicas, Storage: jetstream.FileStorage,
			})
			return err
		})
		if refused := new(jetstream.APIError); errors.As(err, &refused) && (refused.ErrorCode == codeNoStorage || refused.ErrorCode == codeNoPeers) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		return true, js.DeleteStream(ctx, probeStream)
	}
	enough, err := fits(need)
	if enough || err != nil {
		return nil //nolint:nilerr // who may not ask may not make them either, and is told so; anything else fails there again
	}
	const precision = 16 << 20
	least, most := int64(0), need
	for most-least > precision {
		middle := (least + most) / 2
		enough, err := fits(middle)
		switch {
		case err != nil:
			return fmt.Errorf("ask for room: %w", err)
		case enough:
			least = middle
		default:
			most = middle
		}
	}
	return fmt.Errorf("%w: the streams reserve %s, it has %s left: set its max_file_store, or make them smaller (FETCH_STREAM_BYTES)", ErrNoRoom, showBytes(need), showBytes(least))
}
