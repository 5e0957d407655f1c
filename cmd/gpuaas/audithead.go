package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// auditHeadName is the file that has the number of the newest record that this process
// kept in the audit stream, a second ago. Nothing else names it: what follows in a stream
// that lost its end has the numbers of what is lost.
const auditHeadName = "audit.head"

// readAuditHead is 0 when the file is not there.
func readAuditHead(dir string) (uint64, error) {
	path := filepath.Join(dir, auditHeadName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is damaged: %w: remove it, it is made again", path, err)
	}
	return n, nil
}

// followAudit says what the audit stream lost since the last run, and writes down how
// far it is from now on.
func (s *site) followAudit(ctx context.Context) error {
	before, err := readAuditHead(s.cfg.DataDir)
	if err != nil {
		s.log.Error("whether the audit stream lost its end is not known", "err", err)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for known, written := false, uint64(0); ; { // ends with ctx
		if !known {
			newest, err := s.audit.Newest(ctx)
			if known = err == nil; known && newest < before {
				s.log.Error("the audit stream lost its end: what was refused in between is not known any more", "stream", s.names.Audit(), "ends", newest, "kept", before)
			}
		}
		if last := s.audit.Last(); known && last > written {
			if err := writeFile(filepath.Join(s.cfg.DataDir, auditHeadName), fmt.Appendf(nil, "%d\n", last)); err != nil {
				s.log.Warn("how far the audit stream is cannot be written down", "err", err)
			}
			written = last
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
