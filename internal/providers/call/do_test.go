package call

import "testing"

func TestPlausible(t *testing.T) {
	for _, status := range []int{-5, 0, 99, 101, 600, 99999} { // HTTP/2 takes any number
		if plausible(status) {
			t.Errorf("%d is taken for a status", status)
		}
	}
}
