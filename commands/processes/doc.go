// Package processes holds what stands between the log and the outside world:
// reading host reports and heartbeats and turning them into commands, sending
// placements to hosts, answering what hosts ask for. Each process says which
// interfaces it needs; cmd wires them to streams. A process keeps no truth: killed
// and started again it goes on from what the log and the streams hold.
package processes

import (
	"context"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// Loop decides commands and answers questions; commands.Loop implements it.
type Loop interface {
	Submit(ctx context.Context, cmd *domain.Command) commands.Reply
	Query(ctx context.Context, actor domain.Actor, f func(w *domain.World, at domain.Time)) (uint64, *domain.Error)
}

// Denied is what goes to the audit stream when something is not believed or not
// allowed.
type Denied struct {
	Actor  string `json:"actor"`
	Action string `json:"action"`
	Code   string `json:"code"`
	Detail string `json:"detail,omitempty"`
}
