package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
)

// member is the part that this process has in its site: a standby that folds the
// log, then perhaps the writer, and after a hand-over a standby again, for as long
// as it takes to stop. What serves asks it, and need not know which.
type member struct {
	name   string        // of this process, the same over its restarts
	holder func() holder // of the writer claim, as seen last

	mu      sync.Mutex
	standby *commands.Standby
	loop    *commands.Loop // nil: a standby
	leaving bool           // the loop is being ended, and a standby comes after it
	held    *domain.Error
	changed chan struct{} // closed when one of these changes

	open  bool          // commands are taken
	under int           // commands under way
	idle  chan struct{} // closed when there are none any more; nil while nobody waits
}

type holder = streams.Holder

func newMember(name string, s *commands.Standby, h func() holder) *member {
	return &member{name: name, holder: h, standby: s, changed: make(chan struct{})}
}

// set changes the part under the lock and tells who waits.
func (m *member) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *member) part() (l *commands.Loop, s *commands.Standby, leaving bool, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.loop, m.standby, m.leaving, m.changed
}

// writer is the loop, nil on a standby.
func (m *member) writer() *commands.Loop {
	l, _, _, _ := m.part()
	return l
}

// role is the part in a word.
func (m *member) role() string {
	if m.writer() != nil {
		return "writer"
	}
	return "standby"
}

// promote puts a loop in the place of the standby whose world it has.
func (m *member) promote(l *commands.Loop) {
	m.set(func() {
		m.loop = l
		l.Hold(m.held)
	})
}

// demote goes on as a standby with the world of a loop that ended.
func (m *member) demote(s *commands.Standby) {
	m.set(func() { m.loop, m.standby, m.leaving = nil, s, false })
}

// hold makes the loop stand still, and one that comes later; see commands.Loop.Hold.
func (m *member) hold(why *domain.Error) {
	m.set(func() {
		if m.held = why; m.loop != nil {
			m.loop.Hold(why)
		}
	})
}

// Submit implements api.Decider.
func (m *member) Submit(ctx context.Context, cmd *domain.Command) commands.Reply {
	l, s, _, _ := m.part()
	if l == nil {
		return s.Submit(ctx, cmd)
	}
	return l.Submit(ctx, cmd)
}

// Query implements api.Decider. Between two parts it waits for the next.
func (m *member) Query(ctx context.Context, actor domain.Actor, f func(w *domain.World, at domain.Time)) (uint64, *domain.Error) {
	for { // ends with an answer or ctx
		l, s, _, changed := m.part()
		var n uint64
		var err *domain.Error
		if l != nil {
			if n, err = l.Query(ctx, actor, f); err == nil || err.Code != "site.stopping" {
				return n, err
			}
			if now, _, leaving, _ := m.part(); now == l && !leaving { // it may have begun to leave since
				return n, err
			}
		} else if n, err = s.Query(ctx, actor, f); err == nil {
			return n, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, err
		}
	}
}

// WaitFor implements api.Waiter: the writer's world has everything.
func (m *member) WaitFor(ctx context.Context, n uint64) error {
	l, s, _, _ := m.part()
	if l != nil {
		return nil
	}
	return s.WaitFor(ctx, n)
}

func (m *member) directory() *commands.Directory {
	l, s, _, _ := m.part()
	if l != nil {
		return l.Directory()
	}
	return s.Directory()
}

// Caller implements api.Callers.
func (m *member) Caller(secret domain.Digest, now domain.Time) (commands.Caller, bool) {
	return m.directory().Caller(secret, now)
}

func (m *member) hosts() []domain.HostID { return m.directory().Hosts() }

// Decide implements api.Writers.
func (m *member) Decide() (done func(), ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.open {
		return nil, false
	}
	m.under++
	return m.done, true
}

func (m *member) done() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.under--; m.under == 0 && m.idle != nil {
		close(m.idle)
		m.idle = nil
	}
}

// take lets commands in.
func (m *member) take() { m.set(func() { m.open = true }) }

// quiesce takes no more commands, and waits for those under way or for ctx.
func (m *member) quiesce(ctx context.Context) {
	m.mu.Lock()
	m.open = false
	var idle chan struct{}
	if m.under > 0 {
		idle = make(chan struct{})
		m.idle = idle
	}
	m.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// Elsewhere implements api.Writers.
func (m *member) Elsewhere() *url.URL {
	h := m.holder()
	if h.Name == "" || h.Name == m.name || h.URL == "" {
		return nil
	}
	u, err := url.Parse(h.URL)
	if err != nil || u.Host == "" {
		return nil
	}
	return u
}

// processNames are those that [processName] makes: another text in the file is damage.
var processNames = regexp.MustCompile(`^[!-~]+-[0-9a-f]{12}$`)

// processName is the name of the process that has a data directory, made at its
// first start. Under a new name it waits until the claim of the old one is over.
func processName(dir string) (string, error) {
	path := filepath.Join(dir, "process.name")
	b, err := os.ReadFile(path)
	if name := strings.TrimSpace(string(b)); err == nil && processNames.MatchString(name) {
		return name, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "gpuaas"
	}
	var raw [6]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", err
	}
	name := host + "-" + hex.EncodeToString(raw[:])
	return name, writeFile(path, []byte(name+"\n"))
}
