package main

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// The page is where it says it is, knows the letters, keeps strangers out of any
// address but loopback, and ends with Ctrl-C.
func TestThePageIsShownUntilCtrlC(t *testing.T) {
	b := counter(t, 3)
	refused := command(t, b.Server.URL(), "page")
	refused.Env = append(refused.Env, "FETCH_PAGE_ADDR=0.0.0.0:0")
	if out, err := refused.CombinedOutput(); err == nil || !strings.Contains(string(out), "FETCH_PAGE_TOKEN") {
		t.Errorf("%s %v", out, err)
	}
	cmd := command(t, b.Server.URL(), "page")
	cmd.Env = append(cmd.Env, "FETCH_PAGE_ADDR=127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url := strings.TrimSpace(line[strings.Index(line, "http"):])
	client := &http.Client{Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	answer, err := client.Get(url + "/letters")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(body), "alice/q-2") {
		t.Errorf("%d %v %s", answer.StatusCode, err, body)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}
