package catalogue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/nearest"
	"fetchworker/internal/providers/redact"
	"fetchworker/internal/providers/sheet"
)

// document reads a YAML file by hand rather than into structs, so that every
// mistake can be reported, all of them at once, with its line and with what
// was expected there.
type document struct {
	file  string
	top   string // what the whole of it is called
	errs  []error
	lines map[string]int // of the fields that were read, by their paths
}

func newDocument(file, top string) *document {
	return &document{file: file, top: top, lines: map[string]int{}}
}

// parse reads YAML text and returns its top node, nil when it is empty.
func (d *document) parse(content []byte) *yaml.Node {
	var top *yaml.Node
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var one yaml.Node
		switch err := decoder.Decode(&one); {
		case errors.Is(err, io.EOF):
			return top
		case err != nil:
			d.errs = append(d.errs, fmt.Errorf("%s: %w", d.file, err))
			return nil
		case top == nil:
			top = one.Content[0]
		case one.Content[0].Kind != yaml.ScalarNode || one.Content[0].Value != "":
			d.fail(one.Content[0], "%s: expected one document, and nothing behind ---", d.top)
			return nil
		}
	}
}

func (d *document) err() error { return errors.Join(d.errs...) }

func (d *document) fail(n *yaml.Node, format string, args ...any) { d.failAt(n.Line, format, args...) }

func (d *document) failAt(line int, format string, args ...any) {
	d.errs = append(d.errs, fmt.Errorf("%s:%d: "+format, append([]any{d.file, line}, args...)...))
}

// each calls use for every member of a mapping, in the file's order, and
// remembers where each stands.
func (d *document) each(n *yaml.Node, path string, use func(key, value *yaml.Node)) {
	if n = follow(n); n.Kind != yaml.MappingNode {
		d.fail(n, "%s: expected fields (name: value), got %s", d.named(path), kindOf(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if seen[key.Value] {
			d.fail(key, "%s: %q is here twice", d.named(path), key.Value)
			continue
		}
		seen[key.Value] = true
		d.lines[strings.TrimPrefix(path+"."+key.Value, ".")] = key.Line
		use(key, follow(n.Content[i+1]))
	}
}

// fields reads a mapping whose names are known.
func (d *document) fields(n *yaml.Node, path string, known map[string]func(*yaml.Node)) {
	d.each(n, path, func(key, value *yaml.Node) {
		if read, ok := known[key.Value]; ok {
			read(value)
			return
		}
		names := slices.Sorted(maps.Keys(known))
		meant := nearest.Of(key.Value, names)
		if meant != "" {
			meant = fmt.Sprintf(" (did you mean %s?)", meant)
		}
		d.fail(key, "%s: unknown field %q%s, expected one of %s", d.named(path), key.Value, meant, strings.Join(names, ", "))
	})
}

// named is a path, or what the file's top is called.
func (d *document) named(path string) string {
	if path == "" {
		return d.top
	}
	return path
}

// sequence reads a list, and remembers where each item stands.
func (d *document) sequence(n *yaml.Node, path string, use func(at string, item *yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, "%s: expected a list, got %s", path, kindOf(n))
		return
	}
	for i, item := range n.Content {
		at := path + "." + strconv.Itoa(i)
		item = follow(item)
		d.lines[at] = item.Line
		use(at, item)
	}
}

// follow leads from an alias to what it stands for.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
	case yaml.DocumentNode, yaml.AliasNode:
	}
	return strconv.Quote(redact.Shorten(n.Value, 40))
}

// read makes a reader of one scalar: parse gives its value, or fails and then
// expected says what it should have been.
func read[T any](d *document, where, expected string, to *T, parse func(text string) (T, error)) func(*yaml.Node) {
	return func(n *yaml.Node) {
		value, err := *to, errors.New("not a scalar")
		if n.Kind == yaml.ScalarNode && n.Tag != "!!null" { // nothing is rather a line that was not finished
			value, err = parse(n.Value)
		}
		if err != nil {
			d.fail(n, "%s: expected %s, got %s", where, expected, kindOf(n))
			return
		}
		*to = value
	}
}

func (d *document) text(where string, to *string) func(*yaml.Node) {
	return read(d, where, "a text", to, func(s string) (string, error) { return s, nil })
}

func word[T ~string](d *document, where string, to *T, values []T) func(*yaml.Node) {
	return read(d, where, "one of "+sheet.Join(values), to, func(s string) (T, error) {
		if !slices.Contains(values, T(s)) {
			return "", strconv.ErrSyntax
		}
		return T(s), nil
	})
}

func (d *document) boolean(where string, to *bool) func(*yaml.Node) {
	return read(d, where, "true or false", to, strconv.ParseBool)
}

func (d *document) number(where string, to *int64) func(*yaml.Node) {
	return read(d, where, "a whole number", to, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
}

func (d *document) duration(where string, to *time.Duration) func(*yaml.Node) {
	return read(d, where, "a duration such as 30s, 1h30m or 7d", to, parseDuration)
}

func (d *document) age(where string, to *time.Duration) func(*yaml.Node) {
	return read(d, where, "an age such as 30s, 1h30m or 7d, or never", to, func(s string) (time.Duration, error) {
		if s == "never" {
			return -1, nil
		}
		return parseDuration(s)
	})
}

func (d *document) bytes(where string, to *int64) func(*yaml.Node) {
	return read(d, where, "a size such as 50GB or 500MB (1024³ and 1024² bytes), or none", to, parseBytes)
}

func (d *document) limits(where string, to *ledger.Limits) func(*yaml.Node) {
	return read(d, where, "windows of calls such as 60/min,2/s, or unlimited", to, ledger.ParseLimits)
}

// list reads a list of texts; a single text is a list of one.
func (d *document) list(where string, to *[]string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		items := []*yaml.Node{n}
		if n.Kind == yaml.SequenceNode {
			items = n.Content
		}
		texts := make([]string, len(items))
		for i, item := range items {
			at := where
			if n.Kind == yaml.SequenceNode {
				at += "." + strconv.Itoa(i)
				d.lines[at] = item.Line
			}
			d.text(at, &texts[i])(follow(item))
		}
		*to = texts
	}
}

// texts reads a mapping of texts into one that may have some already.
func (d *document) texts(where string, to *map[string]string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if *to == nil {
			*to = map[string]string{}
		}
		d.each(n, where, func(key, value *yaml.Node) {
			var text string
			d.text(where+"."+key.Value, &text)(value)
			(*to)[key.Value] = text
		})
	}
}

// json reads a value that is sent as JSON: written as fields or a list, or as
// a text that is JSON already.
func (d *document) json(path string, to *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode {
			d.text(path, to)(n)
			return
		}
		var value any
		if err := n.Decode(&value); err != nil {
			d.fail(n, "%s: expected fields, a list or JSON: %v", path, err)
			return
		}
		content, err := json.Marshal(value)
		if err != nil {
			d.fail(n, "%s: expected fields with texts as their names: %v", path, err)
			return
		}
		*to = string(content)
	}
}

// parseDuration reads a Go duration or whole days, above 0.
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < 1 || n > 3660 {
			return 0, strconv.ErrSyntax
		}
		return time.Duration(n) * day, nil
	}
	duration, err := time.ParseDuration(s)
	if err == nil && duration <= 0 {
		err = strconv.ErrRange
	}
	return duration, err
}

const (
	gb  = 1 << 30 // bytes; the GB of every limit
	day = 24 * time.Hour
)

var byteUnits = []struct {
	name string
	size int64
}{{"GB", gb}, {"MB", 1 << 20}, {"KB", 1 << 10}, {"B", 1}}

func parseBytes(s string) (int64, error) {
	if s == "none" || s == "0" {
		return 0, nil
	}
	for _, unit := range byteUnits {
		if number, ok := strings.CutSuffix(s, unit.name); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
			if err != nil || !(n >= 0) || n*float64(unit.size) > math.MaxInt64/2 {
				return 0, strconv.ErrSyntax
			}
			return int64(n * float64(unit.size)), nil
		}
	}
	return strconv.ParseInt(s, 10, 64)
}
