package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestCheckNamesAMistypedVariable(t *testing.T) {
	t.Setenv("FRED_REQUEST_PER_MINUTE", "5")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"check"}, env("FRED_REQUEST_PER_MINUTE", "5"), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := "FRED_REQUEST_PER_MINUTE is set, and nothing reads it: did you mean FRED_REQUESTS_PER_MINUTE?"; !strings.Contains(out.String(), want) {
		t.Errorf("not told: %s", out.String())
	}
}
