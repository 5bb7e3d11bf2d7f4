package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
)

// overRedis is Asynq on a Redis that keeps an append-only file.
type overRedis struct {
	client         *asynq.Client
	inspector      *asynq.Inspector
	worker, server *process
}

func startAsynq(_ context.Context, s setup) (running, error) {
	exe, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("%w: redis-server is not installed", errLeftOut)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	fsync := "everysec"
	if s.sync == "always" {
		fsync = "always"
	}
	server, err := start(s.dir, "redis", nil, exe, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", s.dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", fsync)
	if err != nil {
		return nil, err
	}
	redis := asynq.RedisClientOpt{Addr: fmt.Sprintf("127.0.0.1:%d", port)}
	o := &overRedis{client: asynq.NewClient(redis), inspector: asynq.NewInspector(redis), server: server}
	if err := eventually(10*time.Second, func() bool { return o.client.Ping() == nil }); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	o.worker, err = startRole(s.dir, "asynq", "REDIS="+redis.Addr, "PROVIDER="+s.provider, "CONCURRENCY="+strconv.Itoa(s.concurrency))
	return o, err
}

func asynqWorker(ctx context.Context) error {
	concurrency, _ := strconv.Atoi(os.Getenv("CONCURRENCY"))
	client, provider := client(concurrency), os.Getenv("PROVIDER")
	server := asynq.NewServer(asynq.RedisClientOpt{Addr: os.Getenv("REDIS"), PoolSize: concurrency + 8}, asynq.Config{
		Concurrency: concurrency, LogLevel: asynq.ErrorLevel,
		// Its default of a second between two looks into an empty queue would be
		// its latency, and the time that the latency's probes take.
		TaskCheckInterval: 2 * time.Millisecond,
	})
	err := server.Start(asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		body, err := get(ctx, client, provider+query(t.Payload()))
		if err != nil {
			return err
		}
		_, err = t.ResultWriter().Write(body)
		return err
	}))
	if err != nil {
		return err
	}
	if err := ready(""); err != nil {
		return err
	}
	<-ctx.Done()
	server.Shutdown()
	return nil
}

func (o *overRedis) processes() (worker, server *process) { return o.worker, o.server }

func (o *overRedis) enqueue(i int) error {
	_, err := o.client.Enqueue(asynq.NewTask("fetch", requestBody(i)), asynq.TaskID(fmt.Sprint("q-", i)),
		asynq.Retention(time.Hour), asynq.Timeout(time.Minute))
	return err
}

func (o *overRedis) publish(_ context.Context, from, n int) error {
	return inParallel(from, n, o.enqueue)
}

func (o *overRedis) answered(context.Context) (int, error) {
	q, err := o.inspector.GetQueueInfo("default")
	if err != nil {
		return 0, nil //nolint:nilerr // there is no queue before its first task
	}
	return q.Completed, nil
}

func (o *overRedis) latencies(ctx context.Context, from, n int, every time.Duration) ([]time.Duration, error) {
	var all []time.Duration
	for i, began := from, time.Now(); i < from+n && time.Since(began) < probesLast; i++ {
		start := time.Now()
		if err := o.enqueue(i); err != nil {
			return nil, err
		}
		err := eventually(30*time.Second, func() bool {
			t, err := o.inspector.GetTaskInfo("default", fmt.Sprint("q-", i))
			return err == nil && t.State == asynq.TaskStateCompleted
		})
		if err != nil {
			return nil, err
		}
		all = append(all, time.Since(start))
		pause(ctx, every)
	}
	return all, nil
}

func (o *overRedis) close() {
	_ = o.client.Close()
	_ = o.inspector.Close()
	o.worker.stop()
	o.server.stop()
}
