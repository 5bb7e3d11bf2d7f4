package fetchworker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
		Params:   json.RawMessage(`{"symbol":"AAPL"}`),
		MaxStale: new(fetchworker.Duration(time.Hour)), // rather an old quote than none
	})
	if err != nil { // no final answer within the minute; the request goes on
		fmt.Println(err)
		return
	}
	if err := answer.Err(); err != nil { // the final answer is a failure
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", answer.Body)
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
		Params: json.RawMessage(`{"symbol":"AAPL"}`),
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
