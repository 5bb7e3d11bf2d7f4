package fetchworker

import (
	"context"
	"sync"
)

// arrivals hands what comes to whoever takes it, in order. Nobody who brings
// something waits.
type arrivals[T any] struct {
	mu   sync.Mutex
	list []T
	came chan struct{}
}

func newArrivals[T any]() *arrivals[T] {
	return &arrivals[T]{came: make(chan struct{}, 1)}
}

func (a *arrivals[T]) push(v T) {
	a.mu.Lock()
	a.list = append(a.list, v)
	a.mu.Unlock()
	select {
	case a.came <- struct{}{}:
	default:
	}
}

// next takes the first, and waits until there is one or ctx ends. What is
// there already is taken before the context is looked at.
func (a *arrivals[T]) next(ctx context.Context) (T, error) {
	for {
		if v, ok := a.take(); ok {
			return v, nil
		}
		select {
		case <-a.came:
		case <-ctx.Done():
			if v, ok := a.take(); ok {
				return v, nil
			}
			var none T
			return none, ctx.Err()
		}
	}
}

func (a *arrivals[T]) size() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.list)
}

func (a *arrivals[T]) take() (v T, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.list) == 0 {
		return v, false
	}
	var none T
	v, a.list[0] = a.list[0], none
	if a.list = a.list[1:]; len(a.list) == 0 {
		a.list = nil
	}
	return v, true
}
