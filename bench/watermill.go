package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wm "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	millRequests = "bench_requests" // its topics are streams and subjects at once
	millResults  = "bench_results"
)

func startWatermill(ctx context.Context, s setup) (running, error) {
	o, err := startNATS(s)
	if err != nil {
		return nil, err
	}
	for _, c := range []jetstream.StreamConfig{
		{Name: millRequests, Subjects: []string{millRequests}, Retention: jetstream.WorkQueuePolicy},
		{Name: millResults, Subjects: []string{millResults}},
	} {
		if _, err := o.js.CreateStream(ctx, c); err != nil {
			return nil, err
		}
	}
	o.results, o.live = millResults, millResults
	o.subject = func(int) string { return millRequests }
	o.worker, err = startRole(s.dir, "watermill", "NATS="+o.server.address, "PROVIDER="+s.provider,
		"CONCURRENCY="+strconv.Itoa(s.concurrency))
	return o, err
}

// watermillWorker has a subscription for each request that may be under way:
// one of them runs its messages one after another.
func watermillWorker(ctx context.Context) error {
	concurrency, _ := strconv.Atoi(os.Getenv("CONCURRENCY"))
	nc, err := nats.Connect(os.Getenv("NATS"))
	if err != nil {
		return err
	}
	subscriber, err := wm.NewSubscriber(wm.SubscriberConfig{
		Conn: nc, Logger: watermill.NopLogger{}, AckAsync: true, AckWaitTimeout: time.Minute,
		ResourceInitializer: wm.GroupedConsumer("bench"),
		// With its default of 500 the first of them would hold all there is.
		ConsumeOptions: []jetstream.PullConsumeOpt{jetstream.PullMaxMessages(16)},
	})
	if err != nil {
		return err
	}
	publisher, err := wm.NewPublisher(wm.PublisherConfig{Conn: nc, Logger: watermill.NopLogger{}})
	if err != nil {
		return err
	}
	client, provider := client(concurrency), os.Getenv("PROVIDER")
	for range concurrency {
		messages, err := subscriber.Subscribe(ctx, millRequests)
		if err != nil {
			return err
		}
		go func() {
			for m := range messages {
				body, err := get(ctx, client, provider+query(m.Payload))
				if err == nil {
					answer := message.NewMessage(watermill.NewUUID(), body)
					answer.Metadata.Set("id", m.UUID)
					err = publisher.Publish(millResults, answer)
				}
				if err != nil {
					fmt.Println(err)
					m.Nack()
					continue
				}
				m.Ack()
			}
		}()
	}
	if err := ready(""); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
