package fetchworker_test

import (
	"errors"
	"testing"

	"fetchworker"

	"github.com/nats-io/nats.go"
)

// An order to cancel is given again where it is not sure that it was carried
// out, and its refusal is told at once.
func TestAnOrderIsGivenAgain(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	orders := 0
	sub, err := s.NC.Subscribe("fetch.cancel.fmp.alice", func(m *nats.Msg) {
		reply := nats.NewMsg(m.Reply)
		switch orders++; orders {
		case 1, 2:
			reply.Header.Set("Nats-Service-Error-Code", "503")
			reply.Header.Set("Nats-Service-Error", "too many orders at once; try again")
		case 3:
			reply.Data = []byte(`{"cancelled":1,"final":0}`)
		default:
			reply.Header.Set("Nats-Service-Error-Code", "404")
			reply.Header.Set("Nats-Service-Error", "no provider named fmp is known")
		}
		if err := m.RespondMsg(reply); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := s.NC.Flush(); err != nil {
		t.Fatal(err)
	}
	if c, err := alice.Cancel(soon(t), identity("q-1")); err != nil || c.Cancelled != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	var wrong *fetchworker.RequestError
	if _, err := alice.Cancel(soon(t), identity("q-1")); !errors.As(err, &wrong) || orders != 4 {
		t.Errorf("%d orders, %v", orders, err)
	}
	others := identity("q-1")
	others.Agent = "bob"
	if _, err := alice.Cancel(soon(t), others); !errors.As(err, &wrong) || wrong.Field != "agent" || orders != 4 {
		t.Errorf("%d orders, %v", orders, err)
	}
}
