package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// overPostgres is River on a PostgreSQL of its own.
type overPostgres struct {
	pool           *pgxpool.Pool
	client         *river.Client[pgx.Tx]
	worker, server *process
}

type fetchArgs struct {
	Body []byte `json:"body"`
	ID   string `json:"id"`
}

func (fetchArgs) Kind() string { return "fetch" }

func startRiver(ctx context.Context, s setup) (running, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: PostgreSQL is not installed", errLeftOut)
	}
	bin := filepath.Dir(found[len(found)-1])
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	// PostgreSQL refuses to run as root.
	data, as := filepath.Join(s.dir, "postgres"), func(exe string, args ...string) (string, []string) {
		if os.Geteuid() != 0 {
			return exe, args
		}
		return "runuser", append([]string{"-u", "postgres", "--", exe}, args...)
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	if owner, err := user.Lookup("postgres"); err == nil && os.Geteuid() == 0 {
		uid, _ := strconv.Atoi(owner.Uid)
		gid, _ := strconv.Atoi(owner.Gid)
		if err := errors.Join(os.Chown(data, uid, gid), os.Chmod(s.dir, 0o755), os.Chmod(filepath.Dir(s.dir), 0o755)); err != nil { //nolint:gosec // scratch folders
			return nil, err
		}
	}
	exe, args := as(bin+"/initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-sync")
	if out, err := exec.CommandContext(ctx, exe, args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	commit := "off"
	if s.sync == "always" {
		commit = "on"
	}
	exe, args = as(bin+"/postgres", "-D", data, "-p", strconv.Itoa(port), "-h", "127.0.0.1", "-k", data,
		"-c", "synchronous_commit="+commit, "-c", "shared_buffers=256MB", "-c", "max_connections=200")
	server, err := start(s.dir, "postgresql", nil, exe, args...)
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("postgres://bench@127.0.0.1:%d/postgres?pool_max_conns=32", port)
	o := &overPostgres{server: server}
	if o.pool, err = pgxpool.New(ctx, url); err != nil {
		return nil, err
	}
	if err := eventually(20*time.Second, func() bool { return o.pool.Ping(ctx) == nil }); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	driver := riverpgxv5.New(o.pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	if _, err := o.pool.Exec(ctx, "create table answers (id text primary key, body bytea)"); err != nil {
		return nil, err
	}
	// It tells of what it inserts once in this time only: of the rest a worker hears
	// when it next looks, a second later.
	if o.client, err = river.NewClient(driver, &river.Config{FetchCooldown: time.Millisecond}); err != nil {
		return nil, err
	}
	o.worker, err = startRole(s.dir, "river", "POSTGRES="+url, "PROVIDER="+s.provider, "CONCURRENCY="+strconv.Itoa(s.concurrency))
	return o, err
}

type fetcher struct {
	river.WorkerDefaults[fetchArgs]
	get   func(context.Context, []byte) ([]byte, error)
	store *pgxpool.Pool
}

func (f *fetcher) Work(ctx context.Context, job *river.Job[fetchArgs]) error {
	body, err := f.get(ctx, job.Args.Body)
	if err != nil {
		return err
	}
	_, err = f.store.Exec(ctx, "insert into answers values ($1, $2) on conflict do nothing", job.Args.ID, body)
	return err
}

func riverWorker(ctx context.Context) error {
	concurrency, _ := strconv.Atoi(os.Getenv("CONCURRENCY"))
	client, provider := client(concurrency), os.Getenv("PROVIDER")
	pool, err := pgxpool.New(ctx, os.Getenv("POSTGRES"))
	if err != nil {
		return err
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &fetcher{store: pool, get: func(ctx context.Context, body []byte) ([]byte, error) {
		return get(ctx, client, provider+query(body))
	}})
	r, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: concurrency}}, Workers: workers,
		// Its default of 100 ms between two takes would be the limit.
		FetchCooldown: time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	if err := r.Start(ctx); err != nil {
		return err
	}
	if err := ready(""); err != nil {
		return err
	}
	<-ctx.Done()
	<-r.Stopped()
	return nil
}

func (o *overPostgres) processes() (worker, server *process) { return o.worker, o.server }

func (o *overPostgres) publish(ctx context.Context, from, n int) error {
	const each = 1000
	for ; n > 0; from, n = from+each, n-each {
		var jobs []river.InsertManyParams
		for i := from; i < from+min(n, each); i++ {
			jobs = append(jobs, river.InsertManyParams{Args: fetchArgs{Body: requestBody(i), ID: fmt.Sprint("q-", i)}})
		}
		if _, err := o.client.InsertManyFast(ctx, jobs); err != nil {
			return err
		}
	}
	return nil
}

func (o *overPostgres) answered(ctx context.Context) (n int, err error) {
	err = o.pool.QueryRow(ctx, "select count(*) from answers").Scan(&n)
	return n, err
}

func (o *overPostgres) latencies(ctx context.Context, from, n int, every time.Duration) ([]time.Duration, error) {
	var all []time.Duration
	for i, began := from, time.Now(); i < from+n && time.Since(began) < probesLast; i++ {
		start := time.Now()
		if _, err := o.client.Insert(ctx, fetchArgs{Body: requestBody(i), ID: fmt.Sprint("q-", i)}, nil); err != nil {
			return nil, err
		}
		err := eventually(30*time.Second, func() bool {
			var found bool
			_ = o.pool.QueryRow(ctx, "select exists (select 1 from answers where id = $1)", fmt.Sprint("q-", i)).Scan(&found)
			return found
		})
		if err != nil {
			return nil, err
		}
		all = append(all, time.Since(start))
		pause(ctx, every)
	}
	return all, nil
}

func (o *overPostgres) close() {
	o.pool.Close()
	o.worker.stop()
	o.server.stop()
}
