package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	floorRequests = "BENCH_REQUESTS"
	floorResults  = "BENCH_RESULTS"
)

// startFloor starts the bare loop, with sync or async publishes.
func startFloor(how string) func(context.Context, setup) (running, error) {
	return func(ctx context.Context, s setup) (running, error) {
		o, err := startNATS(s)
		if err != nil {
			return nil, err
		}
		for _, c := range []jetstream.StreamConfig{
			{Name: floorRequests, Subjects: []string{"bench.request.>"}, Retention: jetstream.WorkQueuePolicy},
			{Name: floorResults, Subjects: []string{"bench.result.>"}, MaxMsgsPerSubject: 1, AllowDirect: true},
		} {
			if _, err := o.js.CreateStream(ctx, c); err != nil {
				return nil, err
			}
		}
		o.results, o.live = floorResults, "bench.result.>"
		o.subject = func(i int) string { return fmt.Sprintf("bench.request.%s.%d", agentOf(i, s.agents), i) }
		o.worker, err = startRole(s.dir, "floor", "NATS="+o.server.address, "PROVIDER="+s.provider,
			"HOW="+how, "CONCURRENCY="+strconv.Itoa(s.concurrency))
		return o, err
	}
}

// client is what every contender but ours calls the provider with.
func client(concurrency int) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		MaxIdleConns: concurrency, MaxIdleConnsPerHost: concurrency,
	}}
}

func get(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	return io.ReadAll(res.Body)
}

// floor is the least that can be called this job: pull, call, publish with a
// PubAck as a compare-and-set, ack. What goes wrong is not looked at.
func floor(ctx context.Context) error {
	concurrency, _ := strconv.Atoi(os.Getenv("CONCURRENCY"))
	nc, err := nats.Connect(os.Getenv("NATS"))
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		return err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, floorRequests, jetstream.ConsumerConfig{
		Durable: "floor", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1, AckWait: time.Minute,
	})
	if err != nil {
		return err
	}
	async := os.Getenv("HOW") == "async"
	http, provider := client(concurrency), os.Getenv("PROVIDER")
	work := make(chan jetstream.Msg, concurrency)
	for range concurrency {
		go func() {
			for m := range work {
				body, err := get(ctx, http, provider+query(m.Data()))
				if err != nil {
					fmt.Println(err)
					_ = m.Nak()
					continue
				}
				answer := nats.NewMsg("bench.result" + m.Subject()[len("bench.request"):])
				answer.Data = body
				if async {
					future, err := js.PublishMsgAsync(answer, jetstream.WithExpectLastSequencePerSubject(0))
					if err != nil {
						fmt.Println(err)
						continue
					}
					go func() {
						select {
						case <-future.Ok():
							_ = m.Ack()
						case err := <-future.Err():
							fmt.Println(err)
						}
					}()
					continue
				}
				if _, err := js.PublishMsg(ctx, answer, jetstream.WithExpectLastSequencePerSubject(0)); err != nil {
					fmt.Println(err)
					continue
				}
				_ = m.Ack()
			}
		}()
	}
	if err := ready(""); err != nil {
		return err
	}
	for ctx.Err() == nil {
		batch, err := consumer.Fetch(2*concurrency, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			return err
		}
		for m := range batch.Messages() {
			work <- m
		}
	}
	return nil
}
