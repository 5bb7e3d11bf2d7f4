package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Stack is what must be closed, in the reverse of the order it was opened.
type Stack struct {
	names  []string
	closes []func() error
}

// Push adds what to do at the end, by the name it has in errors.
func (s *Stack) Push(name string, do func() error) {
	s.names = append(s.names, name)
	s.closes = append(s.closes, do)
}

// Close does all of it, last pushed first, and goes on after an error.
func (s *Stack) Close() error {
	var errs []error
	for i := len(s.closes) - 1; i >= 0; i-- {
		if err := s.closes[i](); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", s.names[i], err))
		}
	}
	s.names, s.closes = nil, nil
	return errors.Join(errs...)
}

// Beside runs something until it is closed, and waits for it then.
func Beside(run func(context.Context)) (end func() error) {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { run(ctx) })
	return func() error {
		stop()
		running.Wait()
		return nil
	}
}
