package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/wire"

	"github.com/spf13/cobra"
)

// selection is what a command's filter flags select.
type selection struct {
	filter       browse.Filter
	class, code  string
	since, until string
	limit        int
	all          bool
	queued       bool // what waits in the queue is looked at too
	oldest       bool // list: the oldest first
	grouped      bool // list: groups instead of single ones
}

// flags adds the filter flags to a command.
func (s *selection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.filter.Provider, "provider", "", "only of this `provider`")
	f.StringVar(&s.filter.Operation, "operation", "", "only of this `operation`")
	f.StringVar(&s.filter.Agent, "agent", "", "only of this `agent`")
	f.StringVar(&s.filter.ID, "id", "", "only the request of this `id`")
	classes := s.classes()
	f.StringVar(&s.class, "class", "", "only of this error `class`: "+strings.Join(classes, ", "))
	f.StringVar(&s.code, "code", "", "only what ends, or ended, with this `code`, as rejected or not_found")
	f.IntVar(&s.filter.HTTPStatus, "http", 0, "only failed with this HTTP `status`")
	f.StringVar(&s.filter.Error, "error", "", "only with an error like this `pattern`: 'gone*', '*symbol*'")
	f.IntVar(&s.filter.Group, "group", 0, "only of the group of this `number`, as a plan or list --groups shows it")
	f.StringVar(&s.since, "since", "", "only failed since: a `time` as 2h, 7d or 2026-11-24T10:00:00Z")
	f.StringVar(&s.until, "until", "", "only failed before: a `time` in the same form")
	f.IntVar(&s.limit, "limit", 0, "stop after `N` messages (0 = no limit)")
	completeWords(cmd, "class", classes)
}

// classes are those that --class chooses from.
func (s *selection) classes() []string {
	if s.queued {
		return append([]string{string(browse.ClassQueued)}, classes()...)
	}
	return classes()
}

func completeWords(cmd *cobra.Command, flag string, words []string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // fails for an unknown flag only
}

func knownClass(name string, classes []string) (wire.Class, error) {
	if name != "" && !slices.Contains(classes, name) {
		return "", misused(oneOf(name, classes), "--class %q is not known", name)
	}
	return wire.Class(name), nil
}

func classes() (all []string) {
	for _, c := range wire.LetterClasses() {
		all = append(all, string(c))
	}
	return all
}

// resolve reads the flags and the optional [AGENT/]ID.
func (s *selection) resolve(args []string, now time.Time) error {
	if len(args) == 1 {
		if err := s.reference(args[0]); err != nil {
			return err
		}
	}
	for _, t := range []struct{ flag, value string }{
		{"--provider", s.filter.Provider}, {"--operation", s.filter.Operation}, {"--agent", s.filter.Agent},
	} {
		if t.value != "" && !fetchworker.ValidToken(t.value) {
			return misused("give the name as replayer status and list show it", "%s %q is no name: 1 to 32 of a-z 0-9 _ -", t.flag, t.value)
		}
	}
	if s.filter.ID != "" && !fetchworker.ValidID(s.filter.ID) {
		return misused("give the id as replayer list shows it", "%q is no request id: 1 to 64 of A-Z a-z 0-9 _ -", s.filter.ID)
	}
	var err error
	if s.filter.Class, err = knownClass(s.class, s.classes()); err != nil {
		return err
	}
	s.filter.Code = fetchworker.Code(s.code)
	if s.filter.HTTPStatus != 0 && (s.filter.HTTPStatus < 100 || s.filter.HTTPStatus > 599) {
		return misused("give one such as 503", "--http %d is no HTTP status", s.filter.HTTPStatus)
	}
	if s.filter.Group < 0 {
		return misused("give the number that a plan or list --groups shows", "--group %d is no group", s.filter.Group)
	}
	if s.limit < 0 {
		return misused("give a number from 1, or leave it out", "--limit %d is negative", s.limit)
	}
	if s.filter.Since, err = moment("--since", s.since, now); err != nil {
		return err
	}
	s.filter.Until, err = moment("--until", s.until, now)
	return err
}

// reference reads [AGENT/]ID.
func (s *selection) reference(arg string) error {
	agent, id, both := strings.Cut(arg, "/")
	if !both {
		agent, id = "", arg
	}
	if s.filter.ID != "" && s.filter.ID != id || both && s.filter.Agent != "" && s.filter.Agent != agent {
		return misused("name the request once", "%q contradicts --agent or --id", arg)
	}
	if both {
		s.filter.Agent = agent
	}
	s.filter.ID = id
	return nil
}

// moment reads a time: how long ago, or when.
func moment(flag, value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return t, nil
	}
	if d, err := span(value); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, misused("give how long ago, as 90m, 2h or 7d, or when, as 2026-11-24T10:00:00Z", "%s %q is no time", flag, value)
}

// longestSpan is more than any stream keeps, and less than what overflows.
const longestSpan = 100 * 365 * 24 * time.Hour

// span reads a duration as Go writes it, and days as 7d or 1.5d.
func span(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if days, ok := strings.CutSuffix(value, "d"); ok {
		var n float64
		n, err = strconv.ParseFloat(days, 64)
		if err == nil && !(math.Abs(n) <= longestSpan.Hours()/24) {
			err = strconv.ErrRange
		}
		d = time.Duration(n * 24 * float64(time.Hour))
	}
	if err == nil && d.Abs() > longestSpan {
		err = strconv.ErrRange
	}
	if err != nil {
		return 0, fmt.Errorf("%q is no duration: %w", value, err)
	}
	return d, nil
}
