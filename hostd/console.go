package hostd

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
)

// ConsoleRequest asks for a piece of a VM's serial console.
type ConsoleRequest struct {
	VM     domain.VMID `json:"vm_id"`
	Offset int64       `json:"offset"`
	Max    int         `json:"max"` // bytes; 0 or more than 256 KiB: 256 KiB
}

// ConsoleReply is the piece and the offset after it.
type ConsoleReply struct {
	Data []byte `json:"data"` // base64 in JSON
	Next int64  `json:"next"`
}

const consoleMaxBytes = 256 << 10

// serveConsole offers the consoles on the line, until that worked or ctx ends.
func (a *Agent) serveConsole(ctx context.Context) {
	backoff := a.o.Limits.Backoff
	for {
		err := a.o.Link.ServeConsole(ctx, a.console)
		if err == nil || ctx.Err() != nil {
			return
		}
		a.o.Log.Warn("consoles are not served yet", "err", err)
		if sleep(ctx, backoff) != nil {
			return
		}
		backoff = min(2*backoff, lineBackoffMax)
	}
}

// console answers one request. Only a VM that the host took on has one.
func (a *Agent) console(ctx context.Context, req []byte) ([]byte, error) {
	var r ConsoleRequest
	if err := json.Unmarshal(req, &r); err != nil {
		return nil, fmt.Errorf("console request: %w", err)
	}
	if _, known := a.journal.Fact(knownKey(r.VM)); !known {
		return nil, fmt.Errorf("%s is not on this host", r.VM)
	}
	if r.Max <= 0 || r.Max > consoleMaxBytes {
		r.Max = consoleMaxBytes
	}
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	b, next, err := a.o.Machine.Console(ctx, r.VM, max(r.Offset, 0), r.Max)
	if err != nil {
		return nil, err
	}
	return json.Marshal(ConsoleReply{Data: b, Next: next})
}
