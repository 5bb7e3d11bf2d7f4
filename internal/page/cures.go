package page

import (
	"net/url"
	"strings"
	"unicode"
)

// remedy is a cure as the page has it: what is done or seen here, and the
// command for a shell, with the server that it is for.
type remedy struct {
	Here    []doing
	Command string
}

// doing is one step of a cure on the page.
type doing struct{ Text, Href string }

// remedy reads the doctor's command. What the page can do or show itself comes
// first: the reader is there already.
func (s *Server) remedy(cure string) remedy {
	r := remedy{Command: s.shell(cure)}
	for _, part := range strings.Split(cure, "replayer ")[1:] {
		if step, is := onPage(shellWords(part)); is {
			r.Here = append(r.Here, step)
		}
	}
	return r
}

// shell is a command as a shell takes it: whoever has another server in the
// environment, or none, must not act on that one.
func (s *Server) shell(command string) string {
	if s.Server == "" {
		return command
	}
	return strings.ReplaceAll(command, "replayer ", "replayer --server "+quoted(s.Server)+" ")
}

// ServerOf is the address of a server without what opens it.
func ServerOf(address string) string {
	if address == "" {
		return ""
	}
	if !strings.Contains(address, "://") {
		address = "nats://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return "" // what cannot be read may hold a password
	}
	u.User = nil
	return u.String()
}

// quoted is a word that a shell leaves as it is.
func quoted(word string) string {
	if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/.,-_[]") == "" && !strings.ContainsAny(word, "[]") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// shellWords are the words of a command, with what is in quotes as one.
func shellWords(text string) []string {
	var words []string
	var word strings.Builder
	quote := false
	for _, c := range text {
		switch {
		case c == '"':
			quote = !quote
		case unicode.IsSpace(c) && !quote:
			words = append(words, word.String())
			word.Reset()
		default:
			word.WriteRune(c)
		}
	}
	return append(words, word.String())
}

// onPage is where the page does what a command of the replayer does.
func onPage(words []string) (doing, bool) {
	var args []string
	flags := url.Values{}
	for i := 0; i < len(words); i++ {
		name, is := strings.CutPrefix(words[i], "--")
		if is && i+1 < len(words) {
			i++
			flags.Set(name, strings.TrimRight(words[i], ",;"))
			continue
		}
		args = append(args, strings.TrimRight(words[i], ",;"))
	}
	q := url.Values{}
	for _, name := range []string{"provider", "operation", "agent", "class"} {
		if v := flags.Get(name); v != "" {
			q.Set(name, v)
		}
	}
	to := func(path string) string {
		if len(q) == 0 {
			return path
		}
		return path + "?" + q.Encode()
	}
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch do := arg(0); do {
	case "pause", "resume", "limit", "retire":
		names := args[1:]
		for i, word := range names { // what follows them: or wait, then …
			if word == "or" || word == "then" || i == 1 && (do == "limit" || do == "retire") {
				names = names[:i]
				break
			}
		}
		if len(names) == 0 || names[0] == "" {
			return doing{}, false
		}
		q = url.Values{"do": {do}, "provider": names}
		if v := flags.Get("for"); v != "" {
			q.Set("for", v)
		}
		if do == "limit" && arg(2) != "" {
			q.Set("limits", arg(2))
		}
		what := names[0]
		if len(names) > 1 {
			what = plural(len(names), "provider", "providers")
		}
		return doing{title(do) + " " + what + "…", to("/control")}, true
	case "review":
		return doing{"See what is in review", to("/review")}, true
	case "list":
		return doing{"See the letters", to("/letters")}, true
	case "cancel":
		return doing{"See what waits, and cancel it", to("/waiting")}, true
	case "usage":
		q.Del("class")
		if since := flags.Get("since"); since != "" && since != "0d" && since != "0" {
			q.Set("since", since)
		}
		if flags.Get("by") == "cause" {
			return doing{"See what failed most", to("/agents") + "#failed"}, true
		}
		return doing{"See who used it", to("/agents")}, true
	case "status":
		if p := flags.Get("provider"); p != "" {
			return doing{"See " + p, "/provider/" + url.PathEscape(p)}, true
		}
	}
	return doing{}, false
}
