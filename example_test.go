package fetchworker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
)

// Ask for a quote and wait for its final answer.
func ExampleClient_Fetch() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	answer, err := client.Fetch(ctx, fetchworker.Request{
		Provider: "fmp", Operation: "quote",
		Params:   fetchworker.Params(map[string]any{"symbol": "AAPL"}),
		MaxStale: new(fetchworker.Duration(time.Hour)), // rather an old quote than none
	})
	var pending *fetchworker.PendingError
	switch {
	case errors.As(err, &pending) && pending.Last != nil: // not within the minute; the request goes on
		fmt.Println(pending.Identity, "waits:", pending.Last.Reason, "until", pending.Last.RetryAt)
	case errors.Is(err, fetchworker.ErrQueueFull):
		fmt.Println("ask again later")
	case err != nil:
		fmt.Println(err)
	}
	if err != nil {
		return
	}

	var quotes []struct {
		Price float64 `json:"price"`
	}
	var problem *fetchworker.Problem
	if err := answer.Decode(&quotes); errors.As(err, &problem) { // the final answer is a failure
		fmt.Println(problem.Code(), problem.Detail)
		return
	}
	fmt.Println(quotes)
}

// Ask, go on with something else, and wait for the answer then.
func ExampleClient_Ask() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	asked, err := client.Ask(ctx, fetchworker.Request{Provider: "fmp", Operation: "quote", Params: fetchworker.Params(map[string]any{"symbol": "AAPL"})})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer asked.Leave()
	fmt.Println("stored as", asked.Identity) // from here on it will be answered

	answer, err := asked.Final(ctx)
	fmt.Println(string(answer.Body), err)
}

// Read a body of any size without holding it.
func ExampleClient_Parts() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, err := client.Lazily().Result(ctx, fetchworker.Identity{Provider: "polygon", Operation: "aggregates", ID: "q-17"})
	if err != nil {
		fmt.Println(err)
		return
	}
	read := 0
	for part, err := range client.Parts(ctx, answer) {
		if err != nil { // of a body that is not what was promised too, before its last part
			fmt.Println(err)
			return
		}
		read += len(part)
	}
	fmt.Println(read, "bytes")
}

// Ask for many things and take their answers as they come.
func ExampleClient_FetchAll() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	ask := func(yield func(fetchworker.Request) bool) {
		for _, symbol := range []string{"AAPL", "MSFT", "BRK-B"} {
			r := fetchworker.Request{Provider: "fmp", Operation: "quote", ID: "close-2026-02-13-" + symbol}
			if r.Params = fetchworker.Params(map[string]any{"symbol": symbol}); !yield(r) {
				return
			}
		}
	}
	for answer, err := range client.FetchAll(context.Background(), ask) {
		fmt.Println(answer.Identity.ID, answer.Status, err)
	}
}

// Publish many requests; they are answered whatever happens to this process.
func ExampleClient_SubmitAll() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	requests := []fetchworker.Request{
		{Provider: "fred", Operation: "series", Lane: fetchworker.LaneBatch, Params: fetchworker.Params(map[string]any{"series_id": "GDP"})},
		{Provider: "fred", Operation: "series", Lane: fetchworker.LaneBatch, Params: fetchworker.Params(map[string]any{"series_id": "UNRATE"})},
	}
	for receipt, err := range client.SubmitAll(context.Background(), slices.Values(requests)) {
		fmt.Println(receipt.Identity.ID, receipt.Duplicate, err)
	}
}

// Wait in another process, or after a restart, for what was asked earlier.
func ExampleClient_Wait() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, err := client.Wait(ctx, fetchworker.Identity{Provider: "fmp", Operation: "quote", ID: "close-2026-02-13-AAPL"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", answer.Body)
}

// See why a request waits, make do with a stale body, and get the final one.
func ExampleClient_Updates() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", ID: "close-2026-02-13-AAPL"}
	for answer, err := range client.Updates(context.Background(), id) {
		switch {
		case err != nil:
			fmt.Println(err)
		case !answer.Final:
			fmt.Println(answer.Status, answer.Reason, answer.RetryAt)
		default:
			fmt.Printf("%s\n", answer.Body)
		}
	}
}

// Read what is stored now, final or not.
func ExampleClient_Result() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	answer, err := client.Result(context.Background(), fetchworker.Identity{Provider: "fmp", Operation: "quote", ID: "q-17"})
	if errors.Is(err, fetchworker.ErrNoAnswer) {
		fmt.Println("never asked, or not answered yet")
		return
	}
	fmt.Println(answer.Status, answer.Final, err)
}

// Publish now and read the answer later, from another process if need be.
func ExampleClient_Submit() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	ctx := context.Background()

	receipt, err := client.Submit(ctx, fetchworker.Request{
		Provider: "polygon", Operation: "previous_close", Lane: fetchworker.LaneBatch,
		Params: fetchworker.Params(map[string]any{"symbol": "AAPL"}),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The request is stored: from here on it will be answered, whatever
	// happens to this process.
	answer, err := client.Result(ctx, receipt.Identity)
	switch {
	case errors.Is(err, fetchworker.ErrNoAnswer):
		fmt.Println("no answer yet")
	case err != nil:
		fmt.Println(err)
	case !answer.Final && answer.Problem != nil:
		fmt.Println("it waits:", answer.Problem.Reason())
	default:
		fmt.Printf("%s\n", answer.Body)
	}
}

// Cancel two requests by their ids.
func ExampleClient_Cancel() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	quote := fetchworker.Identity{Provider: "fmp", Operation: "quote"}
	first, second := quote, quote
	first.ID, second.ID = "q-1", "q-2"
	done, err := client.Cancel(context.Background(), first, second)
	fmt.Println(done.Cancelled, "cancelled,", done.Final, "had their answer", err)
}

// Cancel everything that can wait, of one provider.
func ExampleClient_CancelAll() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	before, err := client.CancelAll(context.Background(), fetchworker.CancelFilter{Provider: "fmp", Lane: fetchworker.LaneBatch})
	fmt.Println("whatever was stored before", before, "is never called", err)
}

func ExampleIdentity() {
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-17"}
	fmt.Println("request:     ", fetchworker.RequestSubject(id.Provider, fetchworker.LaneInteractive, id.Operation, id.Agent))
	fmt.Println("Nats-Msg-Id: ", id)
	fmt.Println("answer:      ", fetchworker.ResultSubject(id))
	// Output:
	// request:      fetch.request.fmp.interactive.quote.alice
	// Nats-Msg-Id:  fmp.quote.alice.q-17
	// answer:       fetch.result.fmp.quote.alice.q-17
}

func ExampleParams() {
	params := struct {
		Symbol string `json:"symbol"`
		Limit  int    `json:"limit,omitempty"`
	}{Symbol: "AAPL"}
	fmt.Println(string(fetchworker.Params(params)))
	// Output: {"symbol":"AAPL"}
}

func ExampleParamsFrom() {
	params, err := fetchworker.ParamsFrom([]string{"symbol=AAPL", "limit=2", `query={"a":1}`})
	fmt.Println(string(params), err)
	// Output: {"limit":"2","query":{"a":1},"symbol":"AAPL"} <nil>
}

func ExampleDecodeRequest() {
	_, err := fetchworker.DecodeRequest([]byte(`{"params":{"symbol":"AAPL"},"ttl":"soon"}`))
	fmt.Println(err)
	// Output: ttl: a positive duration such as "10m"
}

func ExampleDecodeAnswer() {
	// As it is read from fetch.result.fmp.quote.alice.q-17.
	header := nats.Header{
		"Fetch-Status": {"failed"}, "Fetch-Final": {"true"}, "Fetch-Generation": {"1"}, "Fetch-Calls": {"1"},
		"Content-Type": {"application/problem+json"},
	}
	body := []byte(`{"type":"urn:fetch:error:not_found","title":"The provider says that this does not exist","status":404,"instance":"q-17"}`)
	a, err := fetchworker.DecodeAnswer("fetch.result.fmp.quote.alice.q-17", header, body)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(a.Status, a.Final, a.Identity.Agent, a.Problem.Code())
	fmt.Println(a.Err())
	// Output:
	// failed true alice not_found
	// not_found: The provider says that this does not exist
}

// Consume everybody's final answers, at least once each.
func ExampleSubscriber_Subscribe() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	subscriber, err := fetchworker.NewSubscriber(nc, fetchworker.SubscriberOptions{Durable: "warehouse"})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = subscriber.Subscribe(context.Background(), fetchworker.ResultFilter{Provider: "fmp", Final: true},
		func(_ context.Context, a fetchworker.Answer) error {
			fmt.Println(a.Identity, a.Status, len(a.Body))
			return nil // now it is acknowledged
		})
	fmt.Println(err)
}

// Hear of circuits that open and close.
func ExampleSubscriber_Events() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	subscriber, err := fetchworker.NewSubscriber(nc, fetchworker.SubscriberOptions{Durable: "pager"})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = subscriber.Events(context.Background(), fetchworker.EventFilter{Kind: "circuit"},
		func(_ context.Context, e fetchworker.Event) error {
			fmt.Println(e.Provider, e.Time, string(e.Data))
			return nil
		})
	fmt.Println(err)
}

// Ask the running fleet what can be asked.
func ExampleClient_Catalogue() {
	client, err := fetchworker.Connect(nats.DefaultURL, "alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	told, err := client.Catalogue(context.Background(), "fmp")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, operation := range told.Operations {
		fmt.Println(operation.Name, string(operation.Params))
	}
}
