package api

import (
	"encoding/json"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Lease is a tenant's time on one slot, and the proof that nothing was left there.
type Lease struct {
	SlotID     string          `json:"slot_id"`
	Generation uint64          `json:"generation" doc:"Which lease of the slot"`
	HostID     string          `json:"host_id"`
	VMID       string          `json:"vm_id"`
	StartedAt  string          `json:"started_at" format:"date-time"`
	EndedAt    string          `json:"ended_at,omitempty" format:"date-time"`
	Result     string          `json:"wipe_result,omitempty" enum:"verified,quarantined" doc:"Left out: not wiped yet. quarantined: it could not be proven, and the slot is out of service"`
	WipedAt    string          `json:"wiped_at,omitempty" format:"date-time"`
	Evidence   json.RawMessage `json:"evidence,omitempty" doc:"Nonce, times and for each device its serial, method and status log"`
}

// Erasure is the proof for an allocation.
type Erasure struct {
	AllocationID string  `json:"allocation_id"`
	Erased       bool    `json:"erased" doc:"Every lease has ended and every device was verified as wiped"`
	Items        []Lease `json:"items" nullable:"false"`
}

func (s *Server) erasureRoutes() {
	read(s, route{path: "/v1/allocations/{a}/erasure", id: "get-erasure", tag: "Allocations", summary: "The proof that nothing is left: every lease with its wipe"}, s.erasure)
}

func showLease(r *projections.Lease) Lease {
	return Lease{
		SlotID: r.SlotID, Generation: uint64(r.Generation), HostID: r.HostID, VMID: r.VMID, StartedAt: r.StartedAt.String(), EndedAt: r.EndedAt.String(),
		Result: r.Result, WipedAt: r.WipedAt.String(), Evidence: r.Evidence,
	}
}

func (s *Server) erasure(c *call) (*Erasure, *domain.Error) {
	var id domain.AllocationID
	if err := pathID(c, "a", "allocation", &id); err != nil {
		return nil, err
	}
	leases, err := all(c, func() ([]projections.Lease, uint64, error) { return s.o.Reads.Erasure(c.ctx(), c.scope(), id) }, showLease)
	if err != nil {
		return nil, err
	}
	out := &Erasure{AllocationID: id.String(), Erased: len(leases.Items) > 0, Items: leases.Items}
	for _, l := range leases.Items {
		out.Erased = out.Erased && l.Result == "verified"
	}
	return out, nil
}
