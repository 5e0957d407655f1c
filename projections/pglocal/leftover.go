package pglocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopLeftover looks for a server that still runs on dir because its parent was
// killed, and stops it. A pid file whose process is gone, or is something else by
// now (numbers are used again), is removed: Postgres itself would refuse to start
// beside the latter.
func stopLeftover(ctx context.Context, dir string) error {
	file := filepath.Join(dir, "postmaster.pid")
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 || !alive(pid) {
		return nil // Postgres removes it itself
	}
	if !isPostgres(pid, dir) {
		return os.Remove(file)
	}
	_ = syscall.Kill(pid, syscall.SIGINT)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for alive(pid) { // ends with the process or the context
		select {
		case <-ctx.Done():
			return fmt.Errorf("another Postgres (pid %d) runs in %s and does not stop: %w", pid, dir, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// sweep notes that dir stands for the directory asked for, and removes the data of
// directories that are gone: whoever deletes a site's data directory deletes its
// database with it, at the latest when the next one is made beside it.
func sweep(root, dir, asked string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(dir+ofSuffix, []byte(asked), 0o600); err != nil {
		return err
	}
	notes, err := filepath.Glob(filepath.Join(root, "postgres-*"+ofSuffix))
	if err != nil {
		return err
	}
	for _, note := range notes {
		of, err := os.ReadFile(note)
		if err != nil {
			continue // another start was faster
		}
		gone := strings.TrimSuffix(note, ofSuffix)
		if _, err := os.Stat(filepath.Dir(string(of))); !errors.Is(err, fs.ErrNotExist) || gone == dir || running(gone) {
			continue
		}
		for _, path := range []string{gone, gone + ".making", gone + ".sock", note} {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// ofSuffix names the note that says which directory a relocated one stands for.
const ofSuffix = ".of"

// running reports whether a server works on dir.
func running(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	return err == nil && pid > 1 && alive(pid) && isPostgres(pid, dir)
}

func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true // no /proc here
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// isPostgres reports whether the process is a postmaster of dir. Without /proc the
// pid file is believed.
func isPostgres(pid int, dir string) bool {
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		return true
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := strings.Split(string(line), "\x00")
	return strings.HasSuffix(args[0], "postgres") && strings.Contains(string(line), "\x00"+dir+"\x00")
}
