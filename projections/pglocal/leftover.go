package pglocal

import (
	"context"
	"fmt"
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
