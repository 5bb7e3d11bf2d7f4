package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"fetchworker"
	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/fetch"
	"fetchworker/internal/providers"
	"fetchworker/internal/wire"

	"go.uber.org/zap"
)

// waitForPermit is how long --try waits for the fleet's next permit.
const waitForPermit = 30 * time.Second

// try makes one real call for a person who writes a data sheet, and shows what
// came, what it was taken for, and why. Where a server is named the call is one
// of the fleet's and waits for its permit; without one it is outside of them.
func try(ctx context.Context, args []string, config app.Config, set *providers.Set, stdout io.Writer) (err error) {
	p, ok := set.Provider(args[0])
	switch {
	case !ok:
		return fmt.Errorf("%w: there is no provider %q", errUsage, args[0])
	case !p.Configured():
		return fmt.Errorf("a key of %s is not set: it needs %v", p.Name, p.Variables())
	}
	params, err := fetchworker.ParamsFrom(args[wordsNeeded:])
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	call, err := p.Plan(args[1], params)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}

	options, done := providers.Options{}, func(*providers.Result) {}
	if config.NATS.Remote() {
		var closing app.Stack
		defer func() { err = errors.Join(err, closing.Close()) }()
		if options.BeforeWrite, done, err = permitted(ctx, config, p, call, &closing); err != nil {
			return err
		}
	}
	r := p.Do(ctx, call, options)
	done(r)
	return showCall(p, call, r, stdout)
}

// permitted waits for a permit of the fleet's, for a call that has not begun.
func permitted(ctx context.Context, config app.Config, p *providers.Provider, call *providers.Call, closing *app.Stack) (start func() error, done func(*providers.Result), err error) {
	name := workerName()
	joined, err := join(ctx, config, nil, false, name, zap.NewNop(), closing)
	if err != nil {
		return nil, nil, err
	}
	js, err := broker.JetStream(joined.nc)
	if err != nil {
		return nil, nil, err
	}
	known, err := enrolled(ctx, js, nil, []*providers.Provider{p})
	if err != nil {
		return nil, nil, err
	}
	if !known.served[p.Name] {
		return nil, nil, fmt.Errorf("no worker of this server has ever served %s: start one, or name no server, and the call is outside of its permits", p.Name)
	}
	kv, err := js.KeyValue(ctx, wire.BucketProviders)
	if err != nil {
		return nil, nil, fmt.Errorf("bucket %s: %w", wire.BucketProviders, err)
	}
	quota, err := fleet.QuotaOf(ctx, kv, p.Name) // of the fleet: one call changes nothing of it
	if err != nil {
		return nil, nil, err
	}
	gate, err := budget.Open(ctx, js, kv, budget.Settings{
		Provider: p.Name, Worker: name, Limits: p.Limits, Groups: fetch.Groups(p), Bytes: p.BytesPerMonth, Quota: quota, AtOnce: int(p.AtOnce), Concurrency: 1, CallTimeout: p.LongestTimeout(),
	}, func(budget.Event) {})
	if err != nil {
		return nil, nil, err
	}
	closing.Push("gate", func() error { gate.Close(); return nil })
	waiting, cancel := context.WithTimeout(ctx, waitForPermit)
	defer cancel()
	permit, err := gate.Acquire(waiting, turns.Ask{Alone: true, Group: call.Group, Cost: call.Cost})
	if err != nil {
		return nil, nil, fmt.Errorf("no permit: %w", err)
	}
	return permit.Start, func(r *providers.Result) {
		gate.AddBytes(r.WireBytes)
		outcome := budget.Neutral // a person's try opens no circuit
		switch {
		case !r.Sent:
			outcome = budget.Unused
		case r.Class == wire.ClassThrottled:
			outcome = budget.Throttled
		case r.Class == wire.ClassOK:
			outcome = budget.Success
		}
		permit.Done(budget.Report{
			Outcome: outcome, Bytes: r.WireBytes, RetryAfter: r.RetryAfter, MinHold: r.MinHold, Sent: r.HoldSent,
			Remaining: r.Remaining, Reset: max(r.Reset, 0), Window: r.Window,
		})
	}, nil
}

// shownBody is how much of a body is shown, in bytes.
const shownBody = 2 << 10

func showCall(p *providers.Provider, call *providers.Call, r *providers.Result, stdout io.Writer) error {
	out := &report{tabs: tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)}
	method := call.Operation.Method
	if method == "" {
		method = "GET"
	}
	out.line("asked", method+" "+p.URL(call).String())
	if call.Body != nil {
		out.line("sent", string(call.Body))
	}
	out.line("came", fmt.Sprintf("status %d, %s, %d bytes over the wire, after %s", r.HTTPStatus, r.ContentType, r.WireBytes, r.Latency.Round(time.Millisecond)))
	class := string(r.Class)
	if r.Code != "" {
		class += " " + string(r.Code)
	}
	if r.ErrorType != "" && r.ErrorType != string(r.Class) {
		class += ", error type " + r.ErrorType
	}
	out.line("taken for", class)
	if r.Why != "" {
		out.line("because", r.Why)
	}
	if r.Detail != "" {
		out.line("detail", r.Detail)
	}
	if r.HoldSent != "" && r.Class != wire.ClassOK {
		out.line("holds", fmt.Sprintf("%s (%s)", plain(r.RetryAfter), r.HoldSent))
	}
	if r.Class == wire.ClassOK {
		out.line("kept", fmt.Sprintf("%t, fresh %s, stale %s, %s old when it came", r.Cacheable, age(call.Operation.Fresh), age(call.Operation.Stale), plain(r.Age.Round(time.Second))))
	}
	if r.Next != nil {
		out.line("next page", string(r.Next))
	}
	out.line("")
	out.line(string(r.Body[:min(len(r.Body), shownBody)]))
	if err := out.tabs.Flush(); err != nil {
		return err
	}
	if r.Class != wire.ClassOK {
		return fmt.Errorf("%s %s was not answered: %s", p.Name, call.Operation.Name, class)
	}
	return nil
}
