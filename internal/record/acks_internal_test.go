package record

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// What is cut out of a stream's word is what the document says, and whatever is
// not the usual word is read as a document.
func TestAStreamsWord(t *testing.T) {
	for _, said := range []string{
		`{"stream":"FETCH_RESULTS","seq":123}`,
		`{"stream":"FETCH_RESULTS","seq":18446744073709551615}`,
		`{"stream":"FETCH_RESULTS", "seq":7}`,
		`{"stream":"FETCH_RESULTS","seq":7,"duplicate":true}`,
		`{"stream":"FETCH_RESULTS","domain":"hub","seq":7}`,
		`{"stream":"A\",\"seq\":9","seq":7}`,
		`{"stream":"FETCH_USAGE","seq":7,"val":"3"}`,
	} {
		var want jetstream.PubAck
		if err := json.Unmarshal([]byte(said), &want); err != nil {
			t.Fatal(err)
		}
		got, err := ackOf([]byte(said))
		if err != nil || got.Sequence != want.Sequence || got.Duplicate != want.Duplicate {
			t.Errorf("%s: %+v, %v", said, got, err)
		}
	}
	for _, said := range []string{``, `{}`, `{"seq":7}`, `{"stream":"","seq":7}`, `{"stream":"A","seq":-7}`, `{"stream":"A","seq":7`, `+OK`} {
		if _, err := ackOf([]byte(said)); !errors.Is(err, jetstream.ErrInvalidJSAck) {
			t.Errorf("%s: %v", said, err)
		}
	}
	_, err := ackOf([]byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"},"stream":"A","seq":0}`))
	if !isConflict(err) {
		t.Errorf("a conflict: %v", err)
	}
}
