package page

import "time"

// LooksUpFor is how long names are looked for from now on: within the usual time
// a busy machine finds none, and then believes each.
func (s *Server) LooksUpFor(d time.Duration) { s.lookUp = d }
