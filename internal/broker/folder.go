package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gofrs/flock"
)

// ErrFolderInUse says that another process runs a server on the data folder.
var ErrFolderInUse = errors.New("the data folder is in use")

// Folder is a data directory that is ours alone.
type Folder struct{ lock *flock.Flock }

// TakeFolder makes the directory if need be and locks it. The kernel holds the
// lock and drops it with the process, so that a kill leaves none behind; the
// file's content only says whom to look for.
func TakeFolder(dir string) (*Folder, error) {
	if absolute, err := filepath.Abs(dir); err == nil {
		dir = absolute
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("the data folder cannot be made: %w", err)
	}
	path := filepath.Join(dir, "fetchworker.lock")
	lock := flock.New(path, flock.SetPermissions(0o600))
	ours, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("the data folder %s cannot be locked: %w", dir, err)
	}
	if !ours {
		return nil, fmt.Errorf("%w: %s, by %s (set NATS_URL to join its server, or give each a FETCH_DATA_DIR)", ErrFolderInUse, dir, holder(path))
	}
	// Where a locked file cannot be written, its holder stays unnamed.
	_ = os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
	return &Folder{lock: lock}, nil
}

// holder is what the lock's file says about the process that has it.
func holder(path string) string {
	text, err := os.ReadFile(path) //nolint:gosec // a path of ours in the folder that was given
	pid, parseErr := strconv.Atoi(strings.TrimSpace(string(text)))
	switch {
	case err != nil || parseErr != nil:
		return "another process"
	case pid == os.Getpid():
		return "this process"
	}
	return fmt.Sprintf("process %d", pid)
}

// Leave gives the folder back; a second time it does nothing. The file stays: whoever deleted it could take
// it away under a process that has just opened it.
func (f *Folder) Leave() { _ = f.lock.Unlock() } // the end of the process does it too
