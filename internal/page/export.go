package page

import (
	"context"
	"encoding/csv"
	"fmt"
	"net/http"
	"time"

	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"go.uber.org/zap"
)

// export sends all that a filter selects as a table, while it is read: any
// number of rows in little memory. What breaks off says so in its last row.
func (s *Server) export(stream, name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f, err := s.filter(r)
		if err != nil {
			s.show(func(*http.Request) (view, error) { return view{}, err }).ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		unfollow := context.AfterFunc(s.running, cancel)
		defer unfollow()
		edge, err := s.Desk.Edge(ctx, stream)
		if err != nil {
			s.show(func(*http.Request) (view, error) { return view{}, err }).ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/csv; charset=utf-8")
		w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%s-%s.csv", name, s.Desk.Now().UTC().Format("20060102-150405")))
		out := http.NewResponseController(w)
		table := csv.NewWriter(w)
		write := func(cells []string) error {
			_ = out.SetWriteDeadline(time.Now().Add(lookTime)) // a browser that has gone to sleep
			return table.Write(cells)
		}
		written := write(operate.ExportColumns)
		for found, err := range s.Desk.Walk(ctx, stream, f.Filter, edge) {
			if err == nil {
				err = ctx.Err() // the page ends while many rows are at hand
			}
			if err != nil {
				s.Log.Warn("page", zap.String("path", r.URL.Path), zap.Error(err))
				written = write([]string{operate.Harmless("it breaks off here: " + err.Error())})
				break
			}
			if written = write(operate.ExportCells(found)); written != nil {
				break
			}
		}
		// What is left may be long after the last row.
		_ = out.SetWriteDeadline(time.Now().Add(lookTime))
		if table.Flush(); written != nil || table.Error() != nil {
			s.Log.Debug("page", zap.String("path", r.URL.Path), zap.Error(table.Error())) // the browser is gone
		}
	}
}

// exports are the tables that there are.
var exports = map[string]string{"letters": wire.StreamDLQ, "review": wire.StreamReview}
