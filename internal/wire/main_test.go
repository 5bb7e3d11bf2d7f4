package wire_test

import (
	"testing"

	"fetchworker/internal/broker/brokertest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	brokertest.Main()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}
