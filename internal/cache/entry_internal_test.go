package cache

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// TestHeadIsAllOfAnEntry: what is written by hand is what encoding/json would
// write, and every field of an entry that has a name there is in it.
func TestHeadIsAllOfAnEntry(t *testing.T) {
	at := time.Date(2026, 11, 30, 1, 2, 3, 456, time.UTC)
	body := []byte("1234567")
	full := Entry{
		FetchedAt: at, CameAt: at.Add(time.Second), HTTPStatus: 203, ContentType: "text/plain; x=\"é\\\"", ETag: `W/"1<&>"`,
		LastModified: "Mon", Next: json.RawMessage(`{"page":2}`), NextLoop: true, Redacted: true, LatencyMS: -7, Plain: true,
		Bytes: len(body), Body: body,
	}
	fields := reflect.ValueOf(full)
	for i := range fields.NumField() {
		if f := fields.Type().Field(i); f.IsExported() && f.Tag.Get("json") != "-" && fields.Field(i).IsZero() {
			t.Errorf("%s is not tested", f.Name)
		}
	}
	for _, e := range []Entry{{}, {FetchedAt: at, HTTPStatus: 200, ContentType: "application/json"}, full} {
		whole, err := json.Marshal(&e)
		if err != nil {
			t.Fatal(err)
		}
		var got, want Entry
		head := e.appendHead(nil, e.Plain)
		if err := json.Unmarshal(head, &got); err != nil {
			t.Fatalf("%s: %v", head, err)
		}
		if err := json.Unmarshal(whole, &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is not %s", head, whole)
		}
	}
}
