// Package tokens says which agent a bearer token names, by a file of hashes.
package tokens

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"fetchworker"

	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"
)

// File says which agent a bearer token names. It holds the SHA-256 of
// each, so that who reads it has none of them:
//
//	9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08: alice
//
// It is read anew when it changes. One that cannot be read leaves those of
// before in force; one that is gone leaves nobody.
type File struct {
	path   string
	logger *zap.Logger

	mu     sync.Mutex
	agents map[string]string // by hash
	read   fs.FileInfo
	at     time.Time // when it was read
	told   string    // the last complaint
}

// Load reads the file once, and refuses one that cannot be read.
func Load(path string, logger *zap.Logger) (*File, error) {
	t := &File{path: path, logger: logger}
	info, err := os.Stat(path)
	if err == nil {
		t.agents, err = readTokens(path)
	}
	if err != nil {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	t.read, t.at = info, time.Now()
	return t, nil
}

// Of is Load, and none without a path.
func Of(path string, logger *zap.Logger) (*File, error) {
	if path == "" {
		return nil, nil // nobody needs one then
	}
	return Load(path, logger)
}

// Agent is whom a token names.
func (t *File) Agent(token string) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refresh()
	name, ok := t.agents[hashOf(token)]
	return name, ok
}

// moment is how close to a look a file may change without another time.
const moment = 100 * time.Millisecond

// refresh reads the file again if it has changed.
func (t *File) refresh() {
	info, err := os.Stat(t.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		t.agents, t.read = nil, nil
		t.complain(err)
		return
	case err != nil:
		t.complain(err)
		return
	case t.read != nil && os.SameFile(info, t.read) && info.Size() == t.read.Size() && info.ModTime().Equal(t.read.ModTime()) && t.at.Sub(info.ModTime()) > moment:
		return
	}
	began := time.Now()
	agents, err := readTokens(t.path)
	if err != nil {
		t.complain(err)
		return
	}
	if t.told != "" {
		t.told = ""
		t.logger.Info("the file of tokens is read again", zap.String("file", t.path))
	}
	t.agents, t.read, t.at = agents, info, began
}

// complain says once what is wrong with the file.
func (t *File) complain(err error) {
	if text := err.Error(); text != t.told {
		t.told = text
		t.logger.Warn("the file of tokens cannot be read", zap.String("file", t.path), zap.Error(err))
	}
}

// errTokens says what is wrong with a file of tokens. It never holds a line of
// it: someone may have written a token where its hash belongs.
var errTokens = errors.New(`each line must be the SHA-256 of a token in 64 hex digits, a colon, and an agent's name (a-z 0-9 _ -), as "gateway token alice" prints it`)

func readTokens(path string) (map[string]string, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator names it
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	var document, more yaml.Node
	agents := map[string]string{}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return agents, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s is no YAML: %w", path, errTokens) // the error itself may quote a line
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: expected no lines behind ---: %w", path, errTokens)
	}
	lines := document.Content[0]
	if lines.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: %w", path, lines.Line, errTokens)
	}
	for i := 0; i+1 < len(lines.Content); i += 2 {
		hash, name := lines.Content[i], lines.Content[i+1]
		if raw, err := hex.DecodeString(hash.Value); err != nil || len(raw) != sha256.Size || name.Kind != yaml.ScalarNode || !fetchworker.ValidToken(name.Value) {
			return nil, fmt.Errorf("%s:%d: %w", path, hash.Line, errTokens)
		}
		raw, _ := hex.DecodeString(hash.Value) // it was decoded above
		sum := hex.EncodeToString(raw)
		if _, twice := agents[sum]; twice {
			return nil, fmt.Errorf("%s:%d: this token is there twice: %w", path, hash.Line, errTokens)
		}
		agents[sum] = name.Value
	}
	return agents, nil
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// New makes a token for an agent, which nobody can guess, and its line in
// the file.
func New(agent string) (token, line string, err error) {
	if !fetchworker.ValidToken(agent) {
		return "", "", &fetchworker.RequestError{Field: "agent", Want: "1 to 32 of a-z 0-9 _ -"}
	}
	token = "fetch_" + rand.Text() + rand.Text()
	return token, hashOf(token) + ": " + agent, nil
}
