package meter

import "testing"

func TestPassed(t *testing.T) {
	for _, c := range []struct {
		used, limit int64
		want        int
	}{{0, 0, 0}, {5, 0, 0}, {69, 100, 0}, {70, 100, 1}, {84, 100, 1}, {85, 100, 2}, {95, 100, 3}, {500, 100, 3}, {50 << 30, 50 << 30, 3}} {
		if got := passed(c.used, c.limit); got != c.want {
			t.Errorf("%d of %d: %d thresholds, want %d", c.used, c.limit, got, c.want)
		}
	}
}
