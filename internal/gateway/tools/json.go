package tools

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// at is what a JSON Pointer (RFC 6901) names.
func at(body []byte, pointer string) (json.RawMessage, error) {
	target := json.RawMessage(bytes.TrimSpace(body))
	if pointer == "" {
		return target, nil
	}
	done := ""
	for token := range strings.SplitSeq(pointer[1:], "/") {
		name := strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		var next json.RawMessage
		switch target[0] {
		case '[':
			all, err := elements(target)
			if err != nil {
				return nil, err
			}
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(all) {
				return nil, fmt.Errorf("at %s is an array of %d, and there is no %q in it", orRoot(done), len(all), name)
			}
			next = all[i]
		case '{':
			var names []string
			err := members(target, func(n string, value json.RawMessage) {
				if names = append(names, n); n == name {
					next = value
				}
			})
			if err != nil {
				return nil, err
			}
			if next == nil {
				if len(names) > 30 {
					names = append(names[:30], "…")
				}
				return nil, fmt.Errorf("at %s there is no %q; there are %s", orRoot(done), name, strings.Join(names, ", "))
			}
		default:
			return nil, fmt.Errorf("at %s is a single value, and there is nothing below it", orRoot(done))
		}
		target, done = next, done+"/"+token
	}
	return target, nil
}

func elements(array []byte) ([]json.RawMessage, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(array, &all); err != nil {
		return nil, fmt.Errorf("array: %w", err)
	}
	return all, nil
}

// members calls each for every member of an object, in its order.
func members(object []byte, each func(name string, value json.RawMessage)) error {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil { // the brace
		return fmt.Errorf("object: %w", err)
	}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return fmt.Errorf("object: a name: %w", err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return fmt.Errorf("object: %s: %w", name, err)
		}
		each(name, value)
	}
	return nil
}

// walk calls see for every member and element below a value, from the outside
// in, and goes into what see says yes to.
func walk(value json.RawMessage, pointer string, see func(pointer, name string, value json.RawMessage) bool) error {
	var failed error
	visit := func(name string, child json.RawMessage) {
		below := pointer + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
		if see(below, name, child) && (child[0] == '{' || child[0] == '[') && failed == nil {
			failed = walk(child, below, see)
		}
	}
	if value[0] == '{' {
		if err := members(value, visit); err != nil {
			return err
		}
		return failed
	}
	all, err := elements(value)
	for i, child := range all {
		visit(strconv.Itoa(i), child)
	}
	if err != nil {
		return err
	}
	return failed
}

// arrays are the pointers of the arrays that an object has as members.
func arrays(object []byte, pointer string) []string {
	var all []string
	_ = members(object, func(name string, value json.RawMessage) { // it was valid before
		if value[0] == '[' {
			all = append(all, pointer+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
		}
	})
	return all
}

// outline is a value that is too large: of an object the members that are
// small, and what the others are; of an array or a text, what it is.
func outline(value json.RawMessage, pointer string, room int) json.RawMessage {
	if value[0] != '{' {
		return named(value, pointer)
	}
	var b bytes.Buffer
	b.WriteByte('{')
	more := 0
	_ = members(value, func(name string, member json.RawMessage) { // it was valid before
		below := pointer + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
		if cost(member) > 400 && cost(member) > room/4 {
			member = named(member, below)
		}
		text, _ := json.Marshal(name) // a text
		line := append(append(text, ':'), member...)
		if room -= cost(line) + 2; room < 200 {
			more++
			return
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		b.Write(line)
	})
	if more > 0 {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"…":"%d more members are not named: search for them"`, more)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// named says what a large value is, and where.
func named(value json.RawMessage, pointer string) json.RawMessage {
	what := fmt.Sprintf("a text of %d bytes", len(value)-2)
	switch value[0] {
	case '[':
		all, _ := elements(value) // it was valid before
		what = fmt.Sprintf("an array of %d, %d bytes", len(all), len(value))
	case '{':
		what = fmt.Sprintf("an object of %d bytes", len(value))
	}
	text, _ := json.Marshal("left out: " + what + ", at pointer " + pointer) // a text
	return text
}
