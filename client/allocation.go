package client

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"
)

// The states of an allocation.
const (
	Pending      = "pending"
	Provisioning = "provisioning"
	Starting     = "starting"
	Running      = "running"
	Stopping     = "stopping"
	Stopped      = "stopped"
	Releasing    = "releasing"
	Released     = "released"
	Failed       = "failed"
	Silent       = "unreachable" // a silent host, which is not a dead one
)

// Allocation is what a tenant launched: Count VMs of one SKU, all or none. Its
// state is that of its least advanced VM.
type Allocation struct {
	ID                      string            `json:"id,omitempty"` // alloc_...; empty in a dry run
	CRN                     string            `json:"crn,omitempty"`
	Name                    string            `json:"name"`
	State                   string            `json:"state"`
	Reason                  string            `json:"reason,omitempty"`
	TenantID                string            `json:"tenant_id"`
	ProjectID               string            `json:"project_id"`
	SKU                     string            `json:"sku"`
	SKUID                   string            `json:"sku_id"`
	Shape                   int               `json:"shape"` // GPUs of one VM
	Count                   int               `json:"count"`
	Image                   string            `json:"image"`
	Features                []string          `json:"features"` // what its VMs have beyond the plain
	VMs                     []VM              `json:"vms"`
	Tags                    map[string]string `json:"tags,omitempty"`        // only of one that was read by itself, and only for the tenant's own people
	TagsErased              bool              `json:"tags_erased,omitempty"` // there were tags or keys; they were erased
	RequestedByUserID       string            `json:"requested_by_user_id"`
	LockedMicrosPerUnitHour *int64            `json:"locked_micros_per_unit_hour,omitempty"`
	HoldMicros              int64             `json:"hold_micros"` // put aside for the first hour
	CreatedAt               time.Time         `json:"created_at"`
	ExpiresAt               time.Time         `json:"expires_at,omitzero"`
	ReleasedAt              time.Time         `json:"released_at,omitzero"`
	DryRun                  bool              `json:"dry_run,omitempty"`
}

// VM is one machine of an allocation.
type VM struct {
	ID      string   `json:"id,omitempty"`
	CRN     string   `json:"crn,omitempty"`
	Name    string   `json:"name"` // train-7/0: its allocation's name and its position there
	State   string   `json:"state"`
	HostID  string   `json:"host_id"`
	SlotIDs []string `json:"slot_ids"`
	Address string   `json:"address,omitempty"`
	Overdue bool     `json:"overdue,omitempty"` // it did not do in time what it should
	Reason  string   `json:"reason,omitempty"`  // why it is off: requested, guest (it powered itself off), or what the host says

	BilledSince time.Time `json:"billed_since,omitzero"` // when its usage began, while it is billed
}

// NewAllocation is what is to be launched.
type NewAllocation struct {
	Name      string            `json:"name,omitempty"` // left out: made from the id
	SKU       string            `json:"sku"`            // name or id
	Count     int               `json:"count,omitempty"`
	Image     string            `json:"image,omitempty"`
	SSHKeys   []string          `json:"ssh_keys,omitempty"`
	UserData  string            `json:"user_data,omitempty"` // cloud-init
	Tags      map[string]string `json:"tags,omitempty"`
	ExpiresAt time.Time         `json:"expires_at,omitzero"` // released then
	DryRun    bool              `json:"dry_run,omitempty"`
	LockPrice bool              `json:"lock_price,omitempty"`
}

// StateError says that an allocation ended in another state than was waited for.
type StateError struct {
	Allocation *Allocation
	Wanted     []string
}

func (e *StateError) Error() string {
	s := fmt.Sprintf("allocation %s is %s", e.Allocation.ID, e.Allocation.State)
	if e.Allocation.Reason != "" {
		s += " (" + e.Allocation.Reason + ")"
	}
	return s
}

// Allocations lists a project's allocations, or those in one state, or in one of
// several: "running,stopped".
func (c *Client) Allocations(ctx context.Context, project, state string, options ...ListOption) iter.Seq2[Allocation, error] {
	return list[Allocation](ctx, c, path("/v1/projects/%s/allocations", project), queryOf("state", state), options)
}

// Allocation reads one.
func (c *Client) Allocation(ctx context.Context, id string) (*Allocation, error) {
	return get[Allocation](ctx, c, path("/v1/allocations/%s", id), nil)
}

// CreateAllocation launches VMs: all of Count or none.
func (c *Client) CreateAllocation(ctx context.Context, project string, a NewAllocation) (*Allocation, error) {
	return post[Allocation](ctx, c, path("/v1/projects/%s/allocations", project), a)
}

// StopAllocation stops the VMs; their slots are kept, and billed.
func (c *Client) StopAllocation(ctx context.Context, id string) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/allocations/%s/stop", id), nil)
}

// StartAllocation starts stopped VMs.
func (c *Client) StartAllocation(ctx context.Context, id string) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/allocations/%s/start", id), nil)
}

// RebootAllocation reboots the VMs.
func (c *Client) RebootAllocation(ctx context.Context, id string) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/allocations/%s/reboot", id), nil)
}

// ReleaseAllocation removes the VMs and wipes their slots. It cannot be undone.
func (c *Client) ReleaseAllocation(ctx context.Context, id string) (*Changed, error) {
	return del[Changed](ctx, c, path("/v1/allocations/%s", id))
}

// The pauses of WaitAllocation.
const (
	firstPoll   = 500 * time.Millisecond
	longestPoll = 5 * time.Second
)

// WaitAllocation polls until the allocation is in one of the states. One that is
// failed or released, and was waited for in another state, is a *StateError; one
// that failed and is gone counts as released. The end of ctx is its error. What was
// seen last comes back with every error.
func (c *Client) WaitAllocation(ctx context.Context, id string, states ...string) (*Allocation, error) {
	return c.WatchAllocation(ctx, id, nil, states...)
}

// WatchAllocation is WaitAllocation that calls seen with what it sees.
func (c *Client) WatchAllocation(ctx context.Context, id string, seen func(*Allocation), states ...string) (*Allocation, error) {
	var last *Allocation
	for pause := firstPoll; ; pause = min(pause*3/2, longestPoll) { // ends with ctx at the latest
		a, err := c.Allocation(ctx, id)
		if err != nil {
			return last, err
		}
		last = a
		if seen != nil {
			seen(a)
		}
		switch {
		case slices.Contains(states, a.State):
			return a, nil
		case a.State == Failed && slices.Contains(states, Released):
			if !a.ReleasedAt.IsZero() {
				return a, nil
			}
		case a.State == Failed || a.State == Released:
			return a, &StateError{a, states}
		}
		if err := c.sleep(ctx, c.jitter(pause)); err != nil {
			return last, err
		}
	}
}
