package sim

import (
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// What a host may do, by what the log asks or a log asked that was lost.

// mayDo says why the log does not ask for what a host does to a VM; "" if it does.
func (h *shadow) mayDo(host *host, c *chain, step plan.Step) string {
	return h.believed(c.epoch, func(v *view) string { return v.mayDo(host, step) })
}

// mayWipe says why the drive in a slot must not be erased; "" if it may.
func (h *shadow) mayWipe(host *host, c *chain) string {
	data := host.driveAt(c.slots[0]).data
	return h.believed(c.epoch, func(v *view) string {
		if x := v.vms[data]; x != nil && x.state < domain.Releasing && x.host == host.id {
			return "it is " + x.state.String()
		}
		return ""
	})
}

func (h *view) mayDo(host *host, step plan.Step) string {
	v := h.vms[step.VM]
	if h.destroyed[step.VM] && step.Op == plan.Remove {
		return ""
	}
	if v == nil || v.host != host.id {
		return "nobody placed it here"
	}
	switch step.Op {
	case plan.Start, plan.Reboot:
		if step.Boot > v.boot {
			return "this boot was never asked for"
		}
	case plan.Stop:
		if v.stops == 0 {
			return "nobody asked for it to be off"
		}
	case plan.Remove:
		if v.state < domain.Releasing {
			return "it is " + v.state.String()
		}
	}
	return ""
}
