// A program over the client that oapi-codegen writes from a gateway's
// openapi.json: it asks as a person does and as a program does, and is told of a
// mistake.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"asks/api"
)

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, door string) error {
	client, err := api.NewClientWithResponses(door)
	if err != nil {
		return err
	}
	agent, prefer, key := "alice", "wait=20", "from-go"
	got, err := client.GetFmpQuoteWithResponse(ctx, &api.GetFmpQuoteParams{Symbol: "AAPL", FetchAgent: &agent, Prefer: &prefer})
	if err != nil {
		return err
	}
	fmt.Println("get", got.StatusCode(), got.HTTPResponse.Header.Get("Fetch-Source"), len(got.Body))

	age := "0s"
	var ask api.AskFmpQuoteJSONRequestBody
	ask.MaxAge = &age
	ask.Params.Symbol = "MSFT"
	asked, err := client.AskFmpQuoteWithResponse(ctx, &api.AskFmpQuoteParams{FetchAgent: &agent, Prefer: &prefer, IdempotencyKey: &key}, ask)
	if err != nil {
		return err
	}
	fmt.Println("ask", asked.StatusCode(), asked.HTTPResponse.Header.Get("Fetch-Request-Id"), len(asked.Body))

	again, err := client.AnswerWithResponse(ctx, "fmp", "quote", key, &api.AnswerParams{FetchAgent: &agent})
	if err != nil {
		return err
	}
	fmt.Println("answer", again.StatusCode(), len(again.Body))

	ask.Params.Symbol = ""
	wrong, err := client.AskFmpQuoteWithResponse(ctx, &api.AskFmpQuoteParams{FetchAgent: &agent, Prefer: &prefer}, ask)
	if err != nil {
		return err
	}
	if wrong.ApplicationproblemJSONDefault == nil {
		return fmt.Errorf("a mistake is answered %d %s", wrong.StatusCode(), wrong.Body)
	}
	fmt.Println("mistake", wrong.StatusCode(), wrong.ApplicationproblemJSONDefault.Type)
	if got.StatusCode() != http.StatusOK || asked.StatusCode() != http.StatusOK || again.StatusCode() != http.StatusOK {
		return fmt.Errorf("%s %s %s", got.Body, asked.Body, again.Body)
	}
	return nil
}
