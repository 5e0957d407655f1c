package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/semaphore"

	"github.com/gpuaas/gpuaas/domain"
)

// Source is the log as a projector needs it.
type Source interface {
	// Follow calls fn with every commit after `after`, in order, with the head it
	// makes, and goes on until ctx ends, fn fails, or nothing more can be read.
	// Commits come decoded with their commands, and are not changed afterwards.
	Follow(ctx context.Context, after domain.Head, fn func(c *domain.Commit, head domain.Head) error) error
	// End is where the log ends now. An answer may be behind, for a moment.
	End(ctx context.Context) (End, error)
	// Newest is the number of the log's last commit, 0 if it is empty. A leader that was
	// just elected may leave out, for a moment, what was acknowledged.
	Newest(ctx context.Context) (uint64, error)
}

// End is the log's last commit; zero for an empty log.
type End struct {
	Head   domain.Head
	Number uint64 // its last event's number; 0: not known
}

// The bounds of a transaction, and of what waits for one.
const (
	maxBatchEvents = 4000
	maxAhead       = 2 * maxBatchEvents // events, or commits without any, read ahead of the fold
	// The pause after a transaction is twice as long as it, at most quietRest; in a rush eight
	// times, at most rushRest, and from restBehind on there is none: see rest. A rush are so
	// many events in a transaction, and in a commit: commands wait for each other then.
	quietRest  = 100 * time.Millisecond
	rushEvents = maxBatchEvents / 4
	rushCommit = 64
	rushRest   = 2 * time.Second
	restBehind = 10 * time.Second
	// shortGrace is how long the log may look shorter than the read model (a leader
	// that was just elected) before that counts as a lost tail.
	shortGrace = 10 * time.Second
)

// Projector keeps the read models up to date. Any number may run on one database:
// one of them works, the others stand by and only watch the checkpoint.
type Projector struct {
	store *Store
	src   Source
	// schema is a fixed one, for a rebuild; "" is the current one.
	schema string
	grace  time.Duration
	batch  int

	mu      sync.Mutex
	applied position
	changed chan struct{} // closed when applied rises
	newest  shared
	hurry   chan struct{} // somebody waits for what is not applied yet
	end     End
	start   uint64 // the log's last commit when it was looked at first
	ends    []seen // what of it was not shown when it was looked at, oldest first

	active atomic.Bool
}

// Projector makes a projector; [Projector.Run] starts it.
func (s *Store) Projector(src Source) *Projector {
	return &Projector{store: s, src: src, grace: shortGrace, batch: maxBatchEvents, changed: make(chan struct{}), hurry: make(chan struct{}, 1)}
}

// delivery is a commit on its way to the fold.
type delivery struct {
	commit *domain.Commit
	head   domain.Head
	events int
}

// Run projects until ctx ends, or until going on would be wrong: [ErrAhead],
// [ErrForked], [ErrSuperseded], [ErrDrift], an event this build does not know, or
// what the source calls the end. A database that goes away is waited for, and
// projecting resumes exactly at its checkpoint.
func (p *Projector) Run(ctx context.Context) error {
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stop()
	watch.Go(func() { p.watchEnd(watching) })
	pause := newBackoff()
	for { // ends with ctx or an error that lasts
		before := p.Applied()
		err := p.session(ctx)
		p.active.Store(false)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var src sourceError
		replaced := p.schema == "" && swapped(err) // and dropped already
		if errors.As(err, &src) || !transient(err) && !replaced {
			return err
		}
		if replaced || errors.Is(err, errRetired) || p.Applied() != before {
			pause.reset()
		}
		p.store.c.Log.Warn("projector starts over", "err", err, "applied", p.Applied().N)
		if !pause.wait(ctx) {
			return ctx.Err()
		}
	}
}

// sourceError is an error of the log's reader: not the database's.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// errRetired: a rebuilt schema took the place of the one projected into.
var errRetired = errors.New("the schema was replaced by a rebuilt one")

// session is the projector's life on one connection.
func (p *Projector) session(ctx context.Context) error {
	conn, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	schema := p.schema
	if schema == "" {
		if err := p.standBy(ctx, conn); err != nil {
			return err
		}
		if schema, _, err = current(ctx, conn); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, `SELECT set_config('search_path', $1, false)`, schema); err != nil {
		return err
	}
	run, from, err := p.takeOver(ctx, conn)
	if err != nil {
		return err
	}
	p.publish(from)
	if err := p.compare(ctx, from.Head); err != nil {
		return err
	}
	p.active.Store(true)
	return p.follow(ctx, &work{p: p, conn: conn, run: run, from: from, rows: newCache()})
}

// connect makes the projector's own connection. Rows are always found by their
// keys, and a plan made while a table was small must not scan it when it is large.
func (p *Projector) connect(ctx context.Context) (*pgx.Conn, error) {
	config := p.store.config.Copy()
	for k, v := range map[string]string{
		"application_name": "gpuaas-projector", "synchronous_commit": "off", "jit": "off",
		"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "plan_cache_mode": "force_generic_plan",
		// The session holds the lock of the only projector: a network that swallows it must
		// not keep the next one out for the two hours of the kernel's default.
		"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3", "tcp_user_timeout": "20000",
	} {
		config.RuntimeParams[k] = v
	}
	return connect(ctx, config)
}

// standBy waits to be the only projector, watching the checkpoint meanwhile.
func (p *Projector) standBy(ctx context.Context, conn *pgx.Conn) error {
	for { // ends with ctx, an error, or the lock
		var got bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, lockProjector).Scan(&got); err != nil || got {
			return err
		}
		at, err := readCheckpoint(ctx, conn)
		if err != nil {
			return err
		}
		p.publish(at)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// compare refuses a log that ends before the read model, or differs at its end. One that
// does not answer is asked again for a while: its connection may have been lost.
func (p *Projector) compare(ctx context.Context, at domain.Head) error {
	deadline := time.Now().Add(p.grace)
	for pause := newBackoff(); ; { // ends with ctx, the deadline or an answer
		end, err := p.src.End(ctx)
		late := !time.Now().Before(deadline)
		switch {
		case err != nil && late:
			return sourceError{fmt.Errorf("ask where the log ends: %w", err)}
		case err != nil: // ask again
		case end.Head.N > at.N: // the first commit read names the one before it
			return nil
		case end.Head == at:
			return nil
		case end.Head.N == at.N:
			return fmt.Errorf("%w: commit %d is %s in the log, %s in the read model: rebuild it if the log is right", ErrForked, at.N, end.Head.Hash, at.Hash)
		case late:
			return fmt.Errorf("%w: the log ends at commit %d, the read model holds %d (%s): the log lost its tail, or this is another log", ErrAhead, end.Head.N, at.N, at.Hash)
		}
		if !pause.wait(ctx) {
			return ctx.Err()
		}
	}
}

// follow reads ahead on one goroutine and writes on this one.
func (p *Projector) follow(ctx context.Context, w *work) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel(nil)
	ahead, room := make(chan delivery, maxAhead), semaphore.NewWeighted(maxAhead)
	readers.Go(func() {
		err := p.src.Follow(ctx, w.from.Head, func(c *domain.Commit, head domain.Head) error {
			d := delivery{c, head, countEvents(c)}
			if err := room.Acquire(ctx, d.room()); err != nil {
				return err
			}
			ahead <- d // has room for as many as there are events
			return nil
		})
		if err == nil {
			err = errors.New("the reader of the log ended")
		}
		cancel(sourceError{fmt.Errorf("read the log: %w", err)})
	})
	for { // ends with the context or an error
		batch, events, err := gather(ctx, ahead, p.batch)
		if err != nil {
			return err
		}
		for i := range batch {
			room.Release(batch[i].room())
		}
		began := time.Now()
		if err := w.write(ctx, batch); err != nil {
			if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
				return cause
			}
			return err
		}
		p.publish(w.from)
		p.rest(ctx, restFor(events, len(batch), time.Since(began), began.Sub(batch[0].commit.At.Std())))
	}
}

// room is what a commit takes of maxAhead.
func (d *delivery) room() int64 { return int64(min(max(d.events, 1), maxAhead)) }

// restFor is how long to rest after a transaction of so many events and commits that took so long,
// whose oldest commit was so old when it began. Without a rush it is short: who looks after what was just said
// on another connection finds it.
func restFor(events, commits int, took, behind time.Duration) time.Duration {
	switch {
	case behind >= restBehind:
		return 0
	case events < rushEvents || events < rushCommit*commits:
		return min(2*took, quietRest)
	default:
		return min(8*took, rushRest)
	}
}

// rest pauses for some times as long as a transaction took, so that in a rush what is
// decided comes first on a machine that it shares with the database, and what it led to is
// shown later, within seconds. Somebody who waits to read their own write ends it.
func (p *Projector) rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.hurry:
	case <-ctx.Done():
	}
}

// gather waits for a commit and takes what else is there, up to a bound of events, which
// it counts.
func gather(ctx context.Context, ahead <-chan delivery, most int) (batch []delivery, events int, err error) {
	select {
	case d := <-ahead:
		batch, events = append(batch, d), d.events
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
	for events < most {
		select {
		case d := <-ahead:
			batch = append(batch, d)
			events += d.events
		default:
			return batch, events, nil
		}
	}
	return batch, events, nil
}

func countEvents(c *domain.Commit) (n int) {
	for i := range c.Decisions {
		n += len(c.Decisions[i].Events)
	}
	return n
}

func (p *Projector) publish(at position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.Head == p.applied.Head {
		return
	}
	p.applied = at
	shown := 0
	for shown < len(p.ends) && p.ends[shown].n <= at.Head.N {
		shown++
	}
	p.ends = slices.Delete(p.ends, 0, shown)
	close(p.changed)
	p.changed = make(chan struct{})
}

// Applied is the commit the read models reflect.
func (p *Projector) Applied() domain.Head {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.applied.Head
}

// Active reports whether this projector is the one that writes.
func (p *Projector) Active() bool { return p.active.Load() }

// WaitFor returns when the read models have commit n: read your own writes. It
// answers unavailable (read_model.behind) when ctx ends first.
func (p *Projector) WaitFor(ctx context.Context, n uint64) error { return p.waitFor(ctx, n, true) }

func (p *Projector) waitFor(ctx context.Context, n uint64, hurry bool) error {
	for { // ends with ctx or the commit
		p.mu.Lock()
		applied, changed := p.applied.Head.N, p.changed
		p.mu.Unlock()
		if applied >= n {
			return nil
		}
		if hurry {
			select {
			case p.hurry <- struct{}{}:
			default:
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			e := domain.Errorf(domain.Unavailable, "read_model.behind", "the read model has commit %d, not yet %d: try again", applied, n)
			e.Cause = ctx.Err()
			return e
		}
	}
}
