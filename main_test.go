package fetchworker_test

import (
	"testing"

	"fetchworker/internal/broker/brokertest"
)

func TestMain(m *testing.M) {
	brokertest.Main()
	m.Run()
}
