package fetch_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
)

// A key is exchanged in its file while 200 requests a second run: the provider
// takes both for two seconds, and nobody notices.
func TestAKeyIsExchangedUnderLoad(t *testing.T) {
	const older, newer = "older-key-0123456789", "newer-key-0123456789"
	file := filepath.Join(t.TempDir(), "key")
	put := func(key string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	put(older)
	inBubble(t, func(t *testing.T, r *rig) {
		delete(r.env, "FMP_API_KEY")
		r.env["FMP_API_KEY_FILE"] = file
		var ended atomic.Pointer[time.Time] // of the older key
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			key := q.Header.Get("apikey") + q.URL.Query().Get("apikey")
			step := providertest.JSON(200, aapl)
			end := ended.Load()
			if key != newer && (key != older || end != nil && time.Now().After(*end)) {
				step = providertest.JSON(401, `{"Error Message": "Invalid API KEY."}`)
			}
			return &step
		}
		defer r.start(nil)()
		var ids []fetchworker.Identity
		for i := range 800 {
			if i == 200 {
				put(newer)
				end := time.Now().Add(2 * time.Second)
				ended.Store(&end)
			}
			ids = append(ids, r.quote(fmt.Sprint("agent-", i%8), fmt.Sprint("q-", i), fmt.Sprint("S", i), ""))
			time.Sleep(5 * time.Millisecond)
		}
		for _, id := range ids {
			if a := r.final(id, 10*time.Second); a.Status != fetchworker.StatusOK || a.Calls != 1 {
				t.Fatalf("%s: %+v", id, a)
			}
		}
	})
}
