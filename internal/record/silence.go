package record

import (
	"sync"
	"sync/atomic"
)

// silence remembers which streams took a message and said nothing of it: the
// server does not answer where a write failed on its disk. It is safe for
// concurrent use.
type silence struct {
	some    atomic.Bool
	mu      sync.Mutex
	streams map[string]struct{}
}

func (s *silence) begins(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams == nil {
		s.streams = map[string]struct{}{}
	}
	s.streams[stream] = struct{}{}
	s.some.Store(true)
}

func (s *silence) ends(stream string) {
	if !s.some.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, stream)
	s.some.Store(len(s.streams) > 0)
}

// Silent reports whether a stream has said nothing of the last write to it,
// in time, while its server was there.
func (l *Log) Silent(stream string) bool {
	if !l.silence.some.Load() {
		return false
	}
	l.silence.mu.Lock()
	defer l.silence.mu.Unlock()
	_, silent := l.silence.streams[stream]
	return silent
}
