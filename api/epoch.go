package api

import (
	"github.com/gpuaas/gpuaas/domain"
)

// Epoch is the site's epoch, and what is left to reconcile in it.
type Epoch struct {
	Epoch        uint64      `json:"epoch" doc:"1, and one more each time operators went on with a log that had lost its end"`
	AwaitedHosts []string    `json:"awaited_host_ids" nullable:"false" doc:"They have not said yet what they hold; nothing is placed there"`
	AheadHosts   []string    `json:"ahead_host_ids" nullable:"false" doc:"They have seen placements that the log never made: it has lost its end"`
	UnknownVMs   []UnknownVM `json:"unknown_vms" nullable:"false" doc:"VMs that the log does not know: kept, billed to nobody, their slots in quarantine"`
}

// UnknownVM is a VM that a host has and the log does not know.
type UnknownVM struct {
	VMID         string   `json:"vm_id"`
	HostID       string   `json:"host_id"`
	TenantID     string   `json:"tenant_id,omitempty" doc:"Whose it was, as the host remembers"`
	AllocationID string   `json:"allocation_id,omitempty"`
	Slots        []uint32 `json:"slots" nullable:"false" doc:"By their place on the host"`
	Running      bool     `json:"running"`
}

type destroyUnknownVM struct {
	_      struct{} `json:"-" additionalProperties:"false"`
	Reason string   `json:"reason" minLength:"1" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" patternDescription:"lower-case letters, digits and inner hyphens" example:"tenant-agreed"`
}

func (s *Server) epochRoutes() {
	read(s, route{path: "/v1/epoch", id: "get-epoch", tag: "Fleet", summary: "The site's epoch, and what is left to reconcile in it"}, s.epoch)
	command(s, route{method: "POST", path: "/v1/hosts/{h}/unknown-vms/{v}/destroy", id: "destroy-unknown-vm", tag: "Fleet", summary: "Destroy a VM that the log does not know", about: "The host removes it, and its slots are wiped. It cannot be taken back.", status: 202}, s.destroyUnknownVM)
}

func (s *Server) epoch(c *call) (*Epoch, *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	out := &Epoch{AwaitedHosts: []string{}, AheadHosts: []string{}, UnknownVMs: []UnknownVM{}}
	err := c.query(func(w *domain.World, _ domain.Time) *domain.Error {
		epoch, awaited, ahead, unknown := w.EpochState()
		out.Epoch = uint64(epoch)
		for _, id := range awaited {
			out.AwaitedHosts = append(out.AwaitedHosts, id.String())
		}
		for _, id := range ahead {
			out.AheadHosts = append(out.AheadHosts, id.String())
		}
		for _, v := range unknown {
			out.UnknownVMs = append(out.UnknownVMs, UnknownVM{
				VMID: v.VM.String(), HostID: v.Host.String(), TenantID: v.Tenant.String(), AllocationID: v.Allocation.String(), Slots: v.Slots, Running: v.Running,
			})
		}
		return nil
	})
	return out, err
}

func (s *Server) destroyUnknownVM(c *call, b *destroyUnknownVM) (*Changed, *domain.Error) {
	m := &domain.DestroyUnknownVM{Reason: b.Reason}
	if err := pathID(c, "h", "host", &m.Host); err != nil {
		return nil, c.hidePlatform(err)
	}
	if err := pathID(c, "v", "vm", &m.VM); err != nil {
		return nil, c.hidePlatform(err)
	}
	if _, err := c.submit(m); err != nil {
		return nil, err
	}
	return &Changed{ID: m.VM.String(), State: "destroying"}, nil
}
