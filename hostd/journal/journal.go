package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/gpuaas/gpuaas/domain"
)

// ErrFull is returned by Append when the file has reached its bound: the daemon
// does nothing new until reports were acknowledged.
var ErrFull = errors.New("journal is full: reports are not being acknowledged")

// ErrClosed is returned after Close.
var ErrClosed = errors.New("journal is closed")

// Options say where a journal lives and how it signs.
type Options struct {
	Dir      string                              // exists, belongs to one daemon
	Sign     func(report []byte) ([]byte, error) // the host's signature over a report's bytes
	MaxBytes int64                               // bound of the file; 0: 16 MiB
	NoSync   bool                                // for simulated hosts only: survives kill -9, not power loss
	Log      *slog.Logger
	Rand     io.Reader // source of journal ids; nil: crypto/rand
	// Doubt are prefixes of facts that hold only as long as nothing after them is lost. They
	// go when the file is damaged before its end, or the log knows more than the file.
	Doubt []string
}

// Entry is a report that the log has not acknowledged.
type Entry struct {
	Number uint64
	Kind   domain.ReportKind
	Signed []byte // as it travels
}

// Change is what a record changes in the remembered facts: first everything whose
// key begins with one of Drop goes, then Set is set.
type Change struct {
	Drop []string
	Set  map[string]string
}

// Journal is safe for concurrent use.
type Journal struct {
	o      Options
	mu     sync.Mutex
	lock   *os.File // flock: one daemon per directory
	file   *os.File
	size   int64 // of the file
	live   int64 // of the pending reports: what a rewrite keeps of the growth
	base   int64 // of header and facts at the last rewrite
	id     domain.JournalID
	last   uint64 // highest number given
	acked  uint64
	queue  []Entry // acked+1 .. last
	facts  map[string]string
	notify chan struct{}
	closed bool
}

const (
	defaultMaxBytes  = 16 << 20
	rewriteMinBytes  = 64 << 10
	ackMaxBytes      = 64
	recordMaxBytes   = 1 << 20
	journalFile      = "journal"
	journalLock      = "lock"
	fileMode         = 0o600
	frameHeaderBytes = 8
)

// Open reads the journal of a directory, or makes one. It fails if another process
// has it open.
func Open(o Options) (*Journal, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	j := &Journal{o: o, facts: map[string]string{}, notify: make(chan struct{}, 1)}
	if err := j.open(); err != nil {
		_ = j.Close()
		return nil, fmt.Errorf("open journal in %s: %w", o.Dir, err)
	}
	j.wake()
	return j, nil
}

func (j *Journal) open() (err error) {
	j.lock, err = os.OpenFile(filepath.Join(j.o.Dir, journalLock), os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(j.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another hostd runs on this directory: %w", err)
	}
	b, err := os.ReadFile(j.path())
	if errors.Is(err, os.ErrNotExist) {
		return j.renew()
	}
	if err != nil {
		return err
	}
	whole, err := j.replay(b)
	if err != nil {
		return err
	}
	if whole < int64(len(b)) || j.id.IsZero() {
		j.o.Log.Warn("journal has a torn tail: cut, and begun anew under another id",
			"journal", j.id, "kept_bytes", whole, "cut_bytes", int64(len(b))-whole, "last_report", j.last)
		if !torn(b[whole:]) {
			j.doubt()
		}
		return j.renew()
	}
	j.file, err = os.OpenFile(j.path(), os.O_WRONLY|os.O_APPEND, fileMode)
	j.size = whole
	return err
}

// doubt forgets what may not hold any more, since something after it is lost.
func (j *Journal) doubt() {
	for _, prefix := range j.o.Doubt {
		maps.DeleteFunc(j.facts, func(k, _ string) bool { return strings.HasPrefix(k, prefix) })
	}
}

func (j *Journal) path() string { return filepath.Join(j.o.Dir, journalFile) }

// replay applies the whole records of b and returns how many bytes they are.
func (j *Journal) replay(b []byte) (int64, error) {
	whole := int64(0)
	for {
		payload, n := nextFrame(b[whole:])
		if n == 0 {
			return whole, nil
		}
		var r record
		if err := r.decode(payload); err != nil {
			return 0, fmt.Errorf("record at byte %d: %w", whole, err)
		}
		j.apply(&r)
		whole += int64(n)
	}
}

// apply is what a record means, live and on replay.
func (j *Journal) apply(r *record) {
	if r.header {
		j.id, j.last, j.acked = r.id, r.last, r.acked
		j.queue, j.facts, j.live = nil, map[string]string{}, 0
	}
	for _, prefix := range r.change.Drop {
		maps.DeleteFunc(j.facts, func(k, _ string) bool { return strings.HasPrefix(k, prefix) })
	}
	maps.Copy(j.facts, r.change.Set)
	if r.entry.Number != 0 {
		j.last = r.entry.Number
		j.queue = append(j.queue, r.entry)
		j.live += int64(len(r.entry.Signed)) + frameHeaderBytes
	}
	if !r.header && r.acked > j.acked {
		j.dropTo(r.acked)
	}
}

func (j *Journal) dropTo(n uint64) {
	j.acked = n
	k := 0
	for k < len(j.queue) && j.queue[k].Number <= n {
		j.live -= int64(len(j.queue[k].Signed)) + frameHeaderBytes
		k++
	}
	j.queue = slices.Delete(j.queue, 0, k)
}

// Append gives r its journal and number, signs it, and makes it durable together
// with the change. ErrFull if the file is at its bound.
func (j *Journal) Append(r *domain.Report, c Change) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, err := j.sign(r, j.last+1)
	if err != nil {
		return err
	}
	if err := j.write(&record{entry: e, change: c}); err != nil {
		return err
	}
	j.wake()
	return nil
}

// Note makes a change of facts durable.
func (j *Journal) Note(c Change) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.changes(c) {
		return nil
	}
	return j.write(&record{change: c})
}

func (j *Journal) changes(c Change) bool {
	for k, v := range c.Set {
		if old, ok := j.facts[k]; !ok || old != v {
			return true
		}
	}
	for _, prefix := range c.Drop {
		for k := range j.facts {
			if _, again := c.Set[k]; strings.HasPrefix(k, prefix) && !again {
				return true
			}
		}
	}
	return false
}

// Fact is a remembered value.
func (j *Journal) Fact(key string) (string, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	v, ok := j.facts[key]
	return v, ok
}

// Facts is a copy of all facts whose key begins with prefix.
func (j *Journal) Facts(prefix string) map[string]string {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := map[string]string{}
	for k, v := range j.facts {
		if strings.HasPrefix(k, prefix) {
			out[k] = v
		}
	}
	return out
}

// Acknowledge drops the reports of journal id up to number n: the log has them.
// It reports whether the journal had to begin anew: the log knows numbers that the file
// lost, or it knew this journal and has gone back to one before it, by a report that was
// on its way for long. Acknowledgements have to come in the log's order.
func (j *Journal) Acknowledge(id domain.JournalID, n uint64) (renewed bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closed:
		return false, ErrClosed
	case id != j.id && j.acked == 0, id == j.id && n <= j.acked:
		return false, nil
	case id != j.id, n > j.last:
		j.o.Log.Warn("the log knows reports that the journal does not have: begun anew under another id", "journal", j.id, "acknowledged", n, "of", id, "last_report", j.last)
		j.doubt()
		if err := j.renew(); err != nil {
			return false, err
		}
		j.wake()
		return true, nil
	}
	if j.dropTo(n); len(j.queue) > 0 {
		j.wake() // the site takes reports: what it has not may have been lost on the way
	}
	if j.worthRewriting() || j.size+ackMaxBytes > j.o.MaxBytes {
		return false, j.rewrite()
	}
	// Not synced: a lost acknowledgement costs a repeat.
	return false, j.writeFrame(&record{acked: n}, false)
}

// Renew begins the journal anew under another id, with what waits: the log takes no more
// of this one.
func (j *Journal) Renew() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	if err := j.renew(); err != nil {
		return err
	}
	j.wake()
	return nil
}

// Pending returns at most max reports after number after.
func (j *Journal) Pending(after uint64, max int) []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	k, _ := slices.BinarySearchFunc(j.queue, after+1, func(e Entry, n uint64) int {
		if e.Number < n {
			return -1
		}
		return int(min(e.Number-n, 1))
	})
	return slices.Clone(j.queue[k:min(len(j.queue), k+max)])
}

// ID is the journal's id; it changes when the journal begins anew.
func (j *Journal) ID() domain.JournalID {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.id
}

// Acked is the journal's id, and up to which report the log has it.
func (j *Journal) Acked() (domain.JournalID, uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.id, j.acked
}

// Backlog is the number of reports not yet acknowledged.
func (j *Journal) Backlog() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.queue)
}

// Room is how many bytes can certainly be appended before ErrFull.
func (j *Journal) Room() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.o.MaxBytes - j.size
}

// Wake receives when there may be something new in Pending, and when the log took a
// part of it.
func (j *Journal) Wake() <-chan struct{} { return j.notify }

// Close closes the files. A second Close does nothing.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	var errs []error
	for _, f := range []*os.File{j.file, j.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	j.file, j.lock = nil, nil
	return errors.Join(errs...)
}

func (j *Journal) wake() {
	select {
	case j.notify <- struct{}{}:
	default:
	}
}

func (j *Journal) sign(r *domain.Report, number uint64) (Entry, error) {
	r.Journal, r.Number = j.id, number
	b := domain.EncodeReport(r)
	sig, err := j.o.Sign(b)
	if err != nil {
		return Entry{}, fmt.Errorf("sign report: %w", err)
	}
	return Entry{Number: number, Kind: r.Kind, Signed: domain.EncodeSignedReport(&domain.SignedReport{Report: b, Signature: sig})}, nil
}
