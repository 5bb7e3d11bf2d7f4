package budget

import (
	"fetchworker"
	"fetchworker/internal/budget/turns"
)

// LaneOf is the gate's lane of a request that comes from the queue.
func LaneOf(l fetchworker.Lane) turns.Lane {
	if l == fetchworker.LaneBatch {
		return turns.Batch
	}
	return turns.Interactive
}
