package api

import (
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Allocation is what a tenant launched: count VMs of one SKU, all or none.
type Allocation struct {
	ID           string            `json:"id,omitempty" example:"alloc_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN          string            `json:"crn,omitempty"`
	Name         string            `json:"name" example:"train-7"`
	State        string            `json:"state" enum:"pending,provisioning,starting,running,stopping,stopped,releasing,released,failed,unreachable,planned" doc:"Its least advanced VM's. unreachable: a silent host; planned: a dry run"`
	Reason       string            `json:"reason,omitempty" doc:"Why it was released or failed"`
	TenantID     string            `json:"tenant_id"`
	ProjectID    string            `json:"project_id"`
	SKU          string            `json:"sku" doc:"The SKU's name" example:"gpu-1x"`
	SKUID        string            `json:"sku_id"`
	Shape        uint32            `json:"shape" doc:"GPUs of one VM"`
	Count        uint32            `json:"count"`
	Image        string            `json:"image"`
	Features     []string          `json:"features" nullable:"false" doc:"What its VMs have beyond the plain: the sku's, and what the image needs"`
	VMs          []VM              `json:"vms" nullable:"false"`
	Tags         map[string]string `json:"tags,omitempty" doc:"Only when one allocation is read, and only for the tenant's own people"`
	TagsErased   bool              `json:"tags_erased,omitempty" doc:"There were tags or keys; they were erased"`
	RequestedBy  string            `json:"requested_by_user_id"`
	LockedMicros *int64            `json:"locked_micros_per_unit_hour,omitempty" doc:"Only with lock_price"`
	HoldMicros   int64             `json:"hold_micros" doc:"Put aside for the first hour"`
	CreatedAt    string            `json:"created_at" format:"date-time"`
	ExpiresAt    string            `json:"expires_at,omitempty" format:"date-time"`
	ReleasedAt   string            `json:"released_at,omitempty" format:"date-time"`
	DryRun       bool              `json:"dry_run,omitempty" doc:"Nothing was launched: this is what would be"`
}

// VM is one machine of an allocation.
type VM struct {
	ID      string   `json:"id,omitempty" example:"vm_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN     string   `json:"crn,omitempty"`
	Name    string   `json:"name" doc:"Its allocation's name and its position there" example:"train-7/0"`
	State   string   `json:"state"`
	HostID  string   `json:"host_id"`
	SlotIDs []string `json:"slot_ids" nullable:"false"`
	Address string   `json:"address,omitempty" example:"10.64.0.7"`
	Overdue bool     `json:"overdue,omitempty" doc:"It did not do in time what it should"`
	Reason  string   `json:"reason,omitempty" doc:"Why it is off: requested, guest (it powered itself off), or what the host says. Its slots are kept, and billed" example:"guest"`

	BilledSince string `json:"billed_since,omitempty" format:"date-time" doc:"When its usage began, while it is billed: at the first sign of life, or 5 minutes after it started. A guest that does not say that it is ready is billed too"`
}

// allocationActions are the routes that act on an allocation.
var allocationActions = []struct {
	method, path, id, summary, state string
	action                           domain.AllocationAction
}{
	{"POST", "/stop", "stop-allocation", "Stop: the slots and their disks are kept, and billed", "stopping", domain.ActionStop},
	{"POST", "/start", "start-allocation", "Start again", "starting", domain.ActionStart},
	{"POST", "/reboot", "reboot-allocation", "Reboot", "starting", domain.ActionReboot},
	{"DELETE", "", "release-allocation", "Release: the VMs are removed, their slots wiped", "releasing", domain.ActionRelease},
}

func (s *Server) allocationRoutes() {
	s.launchRoute()
	for _, a := range allocationActions {
		action(s, route{method: a.method, path: "/v1/allocations/{a}" + a.path, id: a.id, tag: "Allocations", summary: a.summary, status: 202}, func(c *call) (*Changed, *domain.Error) {
			return s.actOnAllocation(c, a.action, a.state)
		})
	}
	read(s, route{path: "/v1/projects/{p}/allocations", id: "list-allocations", tag: "Allocations", summary: "List a project's allocations", query: append([]*param{
		queryParam("state", "Only those in this state, or one of several: running,stopped.", stringSchema),
		queryParam("live", "true: only those that are not released yet.", &huma.Schema{Type: "boolean"}),
	}, naming...)}, s.listAllocations)
	read(s, route{path: "/v1/allocations/{a}", id: "get-allocation", tag: "Allocations", summary: "Read an allocation"}, s.getAllocation)
}

func (s *Server) actOnAllocation(c *call, do domain.AllocationAction, state string) (*Changed, *domain.Error) {
	m := &domain.ActOnAllocation{Action: do}
	if err := pathID(c, "a", "allocation", &m.Allocation); err != nil {
		return nil, err
	}
	d, err := c.submit(m)
	if err != nil && err.Code == "allocation.not_found" {
		return s.actOnEnded(c, do, m.Allocation, err)
	}
	if err != nil {
		return nil, err
	}
	if len(d.events) > 0 {
		return &Changed{ID: m.Allocation.String(), State: state}, nil
	}
	// It was already so: say where it is.
	if err := c.query(func(w *domain.World, _ domain.Time) *domain.Error {
		st, ok := w.AllocationState(m.Allocation)
		if !ok {
			return notFound("allocation")
		}
		state = st.String()
		return nil
	}); err != nil {
		return nil, err
	}
	return &Changed{ID: m.Allocation.String(), State: state}, nil
}

// actOnEnded answers for an allocation that the world does not have: it may have
// ended, and live on in the read models. Releasing it again changes nothing. What
// is not there and what is not the caller's take the same way.
func (s *Server) actOnEnded(c *call, do domain.AllocationAction, id domain.AllocationID, refused *domain.Error) (*Changed, *domain.Error) {
	r, n, err := found(c, func() (projections.Allocation, uint64, error) {
		r, n, err := c.allocation(id)()
		if err == nil && r.State != domain.Released.String() && r.State != domain.Failed.String() {
			err = notFound("allocation") // it ended since: not as what, yet
		}
		return r, n, err
	})
	if err != nil && err.Kind != domain.NotFound {
		return nil, err
	}
	var project domain.ProjectID
	if perr := project.UnmarshalText([]byte(r.ProjectID)); perr != nil {
		return nil, domain.AsError(perr)
	}
	allowed := false
	if qerr := c.query(func(w *domain.World, at domain.Time) *domain.Error {
		_, live := w.AllocationState(id)
		allowed = !live && w.MayAct(c.actor(), at, project) == nil
		return nil
	}); qerr != nil {
		return nil, qerr
	}
	if err != nil || !allowed {
		return nil, refused
	}
	c.sequence(n)
	state := domain.Released.String()
	if r.State == domain.Failed.String() {
		state = r.State
	}
	if do != domain.ActionRelease {
		return nil, domain.Errorf(domain.Conflict, "allocation.wrong_state", "the allocation is %s: create a new one", state)
	}
	return &Changed{ID: id.String(), State: state}, nil
}

func (s *Server) listAllocations(c *call) (*List[Allocation], *domain.Error) {
	var id domain.ProjectID
	if err := pathID(c, "p", "project", &id); err != nil {
		return nil, err
	}
	var by projections.AllocationFilter
	var err *domain.Error
	if by.States, err = c.words("state"); err != nil {
		return nil, err
	}
	if by.Live, err = c.flag("live"); err != nil {
		return nil, err
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.Allocation], error) {
		return s.o.Reads.Allocations(c.ctx(), c.scope(), id, by, o)
	}, s.showAllocation)
}

func (s *Server) getAllocation(c *call) (Allocation, *domain.Error) {
	var id domain.AllocationID
	if err := pathID(c, "a", "allocation", &id); err != nil {
		return Allocation{}, err
	}
	var failed *domain.Error
	out, err := one(c, c.allocation(id), func(r *projections.Allocation) Allocation {
		a := s.showAllocation(r)
		failed = s.addTags(c, r, &a)
		return a
	})
	if err == nil {
		err = failed
	}
	return out, err
}

// allocation is how one is read, by the routes that need one.
func (c *call) allocation(id domain.AllocationID) func() (projections.Allocation, uint64, error) {
	return func() (projections.Allocation, uint64, error) { return c.s.o.Reads.Allocation(c.ctx(), c.scope(), id) }
}

func (s *Server) showAllocation(r *projections.Allocation) Allocation {
	a := Allocation{
		ID: r.ID, CRN: s.crn(r.TenantID, r.ProjectID, "allocation", r.ID), Name: r.Name, State: r.State, Reason: r.Reason, TenantID: r.TenantID,
		ProjectID: r.ProjectID, SKU: r.SKU, SKUID: r.SKUID, Shape: r.Shape, Count: r.Count, Image: r.Image, Features: r.Features.Names(), VMs: make([]VM, len(r.VMs)),
		RequestedBy: r.RequestedBy, LockedMicros: r.LockedMicros, HoldMicros: r.HoldMicros, CreatedAt: r.CreatedAt.String(),
		ExpiresAt: r.ExpiresAt.String(), ReleasedAt: r.ReleasedAt.String(),
	}
	for i, v := range r.VMs {
		a.VMs[i] = VM{ID: v.ID, State: v.State, HostID: v.HostID, SlotIDs: v.SlotIDs, Address: v.Address, Overdue: v.Overdue, Reason: v.Reason, BilledSince: v.BilledSince.String()}
	}
	s.nameVMs(&a)
	return a
}

// nameVMs adds what every resource has.
func (s *Server) nameVMs(a *Allocation) {
	for i := range a.VMs {
		v := &a.VMs[i]
		v.Name = a.Name + "/" + strconv.Itoa(i)
		v.CRN = s.crn(a.TenantID, a.ProjectID, "vm", v.ID)
	}
}
