package page

import (
	"fmt"
	"testing"
)

// Every cure of the doctor's that the page can do or show is a link on it.
func TestACureIsDoneOnThePage(t *testing.T) {
	for cure, want := range map[string]string{
		`replayer resume fmp --reason "…"`:                              `[{Resume fmp… /control?do=resume&provider=fmp}]`,
		`replayer resume polygon --reason "vendor says fixed", or wait`: `[{Resume polygon… /control?do=resume&provider=polygon}]`,
		`replayer resume fmp fred polygon --reason "…"`:                 `[{Resume 3 providers… /control?do=resume&provider=fmp&provider=fred&provider=polygon}]`,
		`replayer limit fmp 50/d,1/s --for 2h --reason "429s", or wait`: `[{Limit fmp… /control?do=limit&for=2h&limits=50%2Fd%2C1%2Fs&provider=fmp}]`,
		`worker check --try fmp OPERATION, with the right key; restart the workers with it; then replayer resume fmp --reason "key replaced"`: `[{Resume fmp… /control?do=resume&provider=fmp}]`,
		`replayer limit fmp 60/min --for 2h --reason "429s"`:                                                                          `[{Limit fmp… /control?do=limit&for=2h&limits=60%2Fmin&provider=fmp}]`,
		`replayer limit fmp default --reason "…"`:                                                                                     `[{Limit fmp… /control?do=limit&limits=default&provider=fmp}]`,
		`replayer usage --since 0d --provider fmp --by agent`:                                                                         `[{See who used it /agents?provider=fmp}]`,
		`replayer usage --since 30d --provider fmp --by agent`:                                                                        `[{See who used it /agents?provider=fmp&since=30d}]`,
		`replayer usage --since 0d --by cause --provider fmp`:                                                                         `[{See what failed most /agents?provider=fmp#failed}]`,
		`replayer review list --provider polygon`:                                                                                     `[{See what is in review /review?provider=polygon}]`,
		`replayer review discard --provider fmp --operation quote --agent alice --class transient --reason "…"`:                       `[{See what is in review /review?agent=alice&class=transient&operation=quote&provider=fmp}]`,
		`replayer list --provider fmp --agent alice`:                                                                                  `[{See the letters /letters?agent=alice&provider=fmp}]`,
		`replayer pause fmp --for 1m --reason "flood, then more", then replayer cancel --provider fmp --agent alice --reason "flood"`: `[{Pause fmp… /control?do=pause&for=1m&provider=fmp} {See what waits, and cancel it /waiting?agent=alice&provider=fmp}]`,
		`worker, with its key; or, if it is gone for good, replayer retire fmp --reason "…"`:                                          `[{Retire fmp… /control?do=retire&provider=fmp}]`,
		`replayer status --provider fmp`:                                                                                              `[{See fmp /provider/fmp}]`,
		`replayer status`:                                                                                                             `[]`,
		`replayer run`:                                                                                                                `[]`,
		`timedatectl set-ntp true`:                                                                                                    `[]`,
		`FMP_API_KEY=… worker`:                                                                                                        `[]`,
	} {
		if got := fmt.Sprint((&Server{}).remedy(cure).Here); got != want {
			t.Errorf("%s:\n%s, want\n%s", cure, got, want)
		}
	}
}

// In a shell the command is of the server that the page is of.
func TestACommandNamesItsServer(t *testing.T) {
	for server, want := range map[string]string{
		"":                      `replayer pause fmp, then replayer cancel`,
		"nats://127.0.0.1:4333": `replayer --server nats://127.0.0.1:4333 pause fmp, then replayer --server nats://127.0.0.1:4333 cancel`,
		"tls://a.example:4222":  `replayer --server tls://a.example:4222 pause fmp, then replayer --server tls://a.example:4222 cancel`,
		"nats://[::1]:4222":     `replayer --server 'nats://[::1]:4222' pause fmp, then replayer --server 'nats://[::1]:4222' cancel`,
		"nats://a';rm -rf":      `replayer --server 'nats://a'\'';rm -rf' pause fmp, then replayer --server 'nats://a'\'';rm -rf' cancel`,
	} {
		if got := (&Server{Config: Config{Server: server}}).shell("replayer pause fmp, then replayer cancel"); got != want {
			t.Errorf("%s: %s", server, got)
		}
	}
	for address, want := range map[string]string{
		"nats://bob:secret@10.0.0.1:4222": "nats://10.0.0.1:4222",
		"nats://token@10.0.0.1:4222":      "nats://10.0.0.1:4222",
		"tls://h:4222":                    "tls://h:4222",
		"10.0.0.1:4222":                   "nats://10.0.0.1:4222",
		"bob:secret@h:4222":               "nats://h:4222",
		"":                                "",
		"nats://bob:%zz@h":                "",
	} {
		if got := ServerOf(address); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}
