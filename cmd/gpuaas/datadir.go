package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A data directory belongs to one process: two would write one log's files. The
// lock is the kernel's, so that a killed process leaves nothing to clean up.

const (
	lockName     = "gpuaas.lock"
	natsName     = "nats.url"
	natsCAName   = "nats.ca"
	databaseName = "database.url"
)

// lockDataDir takes the directory, and returns how to give it back.
func lockDataDir(dir string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another gpuaas process: stop it first", dir)
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

// runningFile is what the process that has the directory wrote there for others:
// its NATS address, its database. ok is false when no process has it.
func runningFile(dir, name string) (string, bool) {
	unlock, err := lockDataDir(dir)
	if err == nil {
		unlock()
		return "", false
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b)), err == nil && len(b) > 0
}
