package fetch

import "testing"

func TestNoTraceCostsNothing(t *testing.T) {
	var off *tracer
	ctx := t.Context()
	allocations := testing.AllocsPerRun(100, func() {
		ctx, span := off.turn(ctx, nil)
		off.join(ctx, nil)
		waiting, permit := off.permit(ctx)
		permit(nil)
		calling, call := off.call(waiting, ctx, nil)
		call(nil)
		_, store := off.store(calling, "answer", "")
		store.End()
		ended(span, nil)
	})
	if allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
}
