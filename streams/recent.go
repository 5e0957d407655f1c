package streams

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

const (
	// recentBytes and recentAge bound the commits kept in memory, 17 s of 14,000 launches a
	// second; what is too old goes with the next commit. A reader that is further behind
	// reads from the server.
	recentBytes = 128 << 20
	recentAge   = 30 * time.Second
	// recentRun bounds what a reader is given at once: who rests in the midst of it keeps
	// no more from being forgotten.
	recentRun = 64
	// recentLook is how often a reader in memory looks whether somebody else appended.
	recentLook = 2 * time.Second
)

// recent holds the newest commits that this process appended and knows to be
// durable, so that its own readers (feed, read models) need not fetch each of them
// from the server again, over the connection that the next append goes over.
type recent struct {
	mu    sync.Mutex
	first uint64      // sequence of msgs[0]
	msgs  [][]byte    // in order, without a gap
	since []time.Time // since when they are here
	bytes int
	grown chan struct{} // closed when msgs grows; nil while nobody waits
}

// add takes a commit that is durable as message seq.
func (r *recent) add(seq uint64, commit []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq != r.first+uint64(len(r.msgs)) {
		r.first, r.msgs, r.since, r.bytes = seq, nil, nil, 0
	}
	now := time.Now()
	r.msgs, r.since = append(r.msgs, bytes.Clone(commit)), append(r.since, now)
	r.bytes += len(commit)
	// The last one before this one stays: a reader that has it goes on here after a pause.
	for r.bytes > recentBytes || len(r.msgs) > 2 && now.Sub(r.since[0]) > recentAge {
		r.bytes -= len(r.msgs[0])
		r.msgs[0] = nil
		r.msgs, r.since, r.first = r.msgs[1:], r.since[1:], r.first+1
	}
	if r.grown != nil {
		close(r.grown)
		r.grown = nil
	}
}

// after returns the messages after message seq, which here must be known: equal to
// the bytes, or of the hash, that the reader has for it. (Nothing comes before the
// first message, and a reader that knows nothing has nothing to compare.) With none
// there, ok says that seq is the last one, and grown when to ask again.
func (r *recent) after(seq uint64, known []byte, hash domain.Digest) (msgs [][]byte, grown <-chan struct{}, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.first + uint64(len(r.msgs)) // the one after the last
	if len(r.msgs) == 0 || seq+1 < r.first || seq >= end {
		return nil, nil, false
	}
	if seq > 0 && (known != nil || !hash.IsZero()) {
		if seq < r.first {
			return nil, nil, false
		}
		have := r.msgs[seq-r.first]
		if known != nil && !bytes.Equal(have, known) || known == nil && domain.DigestOf(have) != hash {
			return nil, nil, false
		}
	}
	if seq+1 < end {
		msgs = r.msgs[seq+1-r.first:]
		return slices.Clone(msgs[:min(len(msgs), recentRun)]), nil, true
	}
	if r.grown == nil {
		r.grown = make(chan struct{})
	}
	return nil, r.grown, true
}

// goesOn reports whether memory has what the tail wants next, and before it what
// the tail knows.
func (t *tail) goesOn() bool {
	if t.recent == nil {
		return false
	}
	msgs, _, ok := t.recent.after(t.next-1, t.last, t.lastHash)
	return ok && len(msgs) > 0
}

// errRemembered ends a consumer's session: memory has what comes next.
var errRemembered = errors.New("streams: read on in memory")

// remembered hands on what this process appended itself, for as long as memory has
// what is wanted next and the log holds nothing else. It returns nil when the
// server has to be asked.
func (t *tail) remembered(ctx context.Context) error {
	if !t.goesOn() {
		return nil // the server is asked first: memory is not begun with a wait
	}
	look := time.NewTicker(recentLook)
	defer look.Stop()
	for doubts := 0; doubts < 2; { // ends with ctx, an error of fn, or doubt
		msgs, grown, ok := t.recent.after(t.next-1, t.last, t.lastHash)
		if !ok {
			return nil
		}
		for _, data := range msgs {
			if err := t.fn(message{seq: t.next, data: data}); err != nil {
				return errFn{err}
			}
			t.next, t.last, doubts = t.next+1, data, 0
		}
		if len(msgs) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-grown:
		case <-look.C:
			// An append whose acknowledgement is on its way looks like somebody else's: once.
			if info, err := streamInfo(ctx, t.js, t.stream); err != nil || info.State.LastSeq != t.next-1 {
				doubts++
			} else {
				doubts = 0
			}
		}
	}
	return nil
}
