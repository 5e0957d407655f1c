package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// ready notes that the guest said ready, and what it said after the word. A guest
// that is not believed may say it again, and is heard; why it was not is said once a
// boot, however often it does.
func (g *Guests) ready(id domain.VMID, said string) {
	var doubt error
	if s, ok := g.State(id); ok && s.Running && s.Ready == 0 && g.o.Doubt != nil {
		doubt = g.o.Doubt(s, said) // looks at devices: not under the lock
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.vms[id]
	if s == nil || !s.Running || s.Ready != 0 {
		return
	}
	if doubt != nil {
		code := doubtCode(doubt)
		if slices.Contains(s.Doubts, code) {
			return
		}
		g.o.Log.Warn("a guest says ready and is not", "vm", id, "said", said, "err", doubt)
		s.Doubts = append(s.Doubts, code)
		g.emit(machine.Event{Kind: machine.Changed, VM: id, Detail: code})
	} else {
		s.Ready = now()
		g.emit(machine.Event{Kind: machine.GuestReady, VM: id, At: s.Ready, Address: s.Address})
	}
	if err := g.save(s); err != nil {
		g.o.Log.Warn("what a guest said of itself is not remembered", "vm", id, "err", err)
	}
}

func doubtCode(err error) string {
	var f *machine.Fault
	if errors.As(err, &f) {
		return f.Code
	}
	return "guest.not_ready"
}

// listen keeps one reader on the ready port of each running VM. The caller holds
// g.mu.
func (g *Guests) listen(id domain.VMID, running bool) {
	cancel, listening := g.watchers[id]
	switch {
	case running && !listening && !g.closed && g.cancel != nil:
		ctx, cancel := context.WithCancel(context.Background())
		g.watchers[id] = cancel
		g.done.Add(1)
		go func() { defer g.done.Done(); g.readReady(ctx, id) }()
	case !running && listening:
		cancel()
		delete(g.watchers, id)
	}
}

// readReady reads the ready port until ctx ends, connecting again when QEMU is
// there again. What the guest sends beside the word is thrown away, slowly: a
// guest that floods its port only waits.
func (g *Guests) readReady(ctx context.Context, id domain.VMID) {
	for ctx.Err() == nil {
		if c, err := g.o.Dial(ctx, id); err == nil {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			var tail []byte
			buf := make([]byte, 256)
			for err == nil { // ends when QEMU goes or ctx does
				var n int
				n, err = c.Read(buf)
				tail = append(tail, buf[:n]...)
				for line, rest, ok := bytes.Cut(tail, []byte("\n")); ok; line, rest, ok = bytes.Cut(tail, []byte("\n")) {
					tail = rest
					if said, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("ready")); ok && (len(said) == 0 || said[0] == ' ') {
						g.ready(id, string(bytes.TrimSpace(said)))
					}
				}
				if len(tail) > 256 {
					tail = nil
				}
				pause(ctx, 100*time.Millisecond)
			}
			stop()
			_ = c.Close()
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				g.o.Log.Debug("ready port", "vm", id, "err", err)
			}
		} else if ctx.Err() == nil {
			g.o.Log.Debug("ready port", "vm", id, "err", err)
		}
		pause(ctx, 500*time.Millisecond)
	}
}
