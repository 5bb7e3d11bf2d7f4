package store

import (
	"context"
	"slices"
	"testing"
	"time"

	"fetchworker/internal/broker/brokertest"
)

// A watch tells nothing any more from the moment on at which it is given up,
// though the server may go on with it for as long as it does not hear of that.
func TestAWatchThatIsGivenUpTellsNothing(t *testing.T) {
	b := brokertest.Start(t)
	defer b.Stop()
	conn := b.Connect(t)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	opened := func() (told chan string, stop, leave func()) {
		told = make(chan string, 100)
		whole := make(chan struct{})
		stop, leave, err := watch(ctx, conn, nil, func(e Entry) { told <- e.Key }, func() { close(whole) })
		if err != nil {
			t.Fatal(err)
		}
		<-whole
		return told, stop, leave
	}
	before, stop, leave := opened()
	after, _, end := opened()
	defer leave()
	defer end()
	put := func(key string) {
		if _, err := b.KV.PutString(ctx, key, "x"); err != nil {
			t.Fatal(err)
		}
		for told := ""; told != key; {
			select {
			case told = <-after:
			case <-ctx.Done():
				t.Fatalf("%s is not told", key)
			}
		}
	}
	put("control.before")
	for told := ""; told != "control.before"; {
		select {
		case told = <-before:
		case <-ctx.Done():
			t.Fatal("a watch that was not given up tells nothing")
		}
	}
	stop()
	for _, key := range []string{"control.a", "control.b", "control.c"} {
		put(key)
	}
	var late []string
	for len(before) > 0 {
		late = append(late, <-before)
	}
	if slices.ContainsFunc(late, func(key string) bool { return key != "control.before" }) {
		t.Errorf("given up, and it told of %q", late)
	}
}
