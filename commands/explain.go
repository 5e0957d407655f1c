package commands

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
)

// Explained is why an allocation was placed as it was, at the moment of its launch.
type Explained struct {
	Allocation domain.AllocationID `json:"allocation_id"`
	Project    domain.ProjectID    `json:"project_id"`
	SKU        domain.SKUID        `json:"sku_id"`
	N          uint64              `json:"commit"` // that holds the launch
	At         domain.Time         `json:"at"`
	VMs        []domain.VMPlaced   `json:"vms"`
	Hosts      []domain.HostReason `json:"hosts"` // of the site then, by enrolment
}

var errFound = errors.New("found")

// Explain folds the log up to the launch of the allocation, places it again on the
// fleet of that moment, and says of every host why it has VMs of it or not. The result
// is held against what was recorded.
func Explain(ctx context.Context, log LogReader, id domain.AllocationID) (Explained, error) {
	w := domain.NewWorld()
	var out Explained
	err := log.Read(ctx, log.Seq(1), func(seq uint64, b []byte) error {
		c, err := domain.DecodeCommitEvents(b)
		if err != nil {
			return fmt.Errorf("message %d: %w", seq, err)
		}
		i, placed := launchIn(c, id)
		if placed == nil {
			return w.ApplyCommit(c, sha256.Sum256(b))
		}
		if c, err = domain.DecodeCommit(b); err != nil {
			return fmt.Errorf("message %d: %w", seq, err)
		}
		w.Begin(c.At)
		for k := range i {
			w.Apply(&c.Decisions[k], domain.Position{N: c.N, Index: uint32(k)})
		}
		launch, ok := c.Decisions[i].Command.Body.(*domain.CreateAllocation)
		if !ok {
			return fmt.Errorf("commit %d: the allocation was placed by %s", c.N, c.Decisions[i].Command.Body.CommandType())
		}
		out = Explained{Allocation: id, Project: placed.Project, SKU: placed.SKU, N: c.N, At: c.At, VMs: placed.VMs}
		if out.Hosts, err = explainLaunch(w, launch, placed); err != nil {
			return fmt.Errorf("commit %d: %w", c.N, err)
		}
		return errFound
	})
	switch {
	case errors.Is(err, errFound):
		return out, nil
	case err != nil:
		return out, err
	}
	return out, fmt.Errorf("the log has no launch of allocation %s", id)
}

// launchIn finds the decision that placed the allocation.
func launchIn(c *domain.Commit, id domain.AllocationID) (int, *domain.AllocationPlaced) {
	for i := range c.Decisions {
		for _, e := range c.Decisions[i].Events {
			if p, ok := e.Body.(*domain.AllocationPlaced); ok && p.ID == id {
				return i, p
			}
		}
	}
	return 0, nil
}

// explainLaunch places the launch again. A placement that differs from the recorded
// one would make every reason wrong.
func explainLaunch(w *domain.World, launch *domain.CreateAllocation, placed *domain.AllocationPlaced) ([]domain.HostReason, error) {
	hosts, derr := w.ExplainPlacement(launch.Ask(), w.Count().Hosts)
	if derr != nil {
		return nil, derr
	}
	want := map[domain.HostID]int{}
	for _, v := range placed.VMs {
		want[v.Host]++
	}
	for _, h := range hosts {
		if h.VMs != want[h.Host] {
			return nil, fmt.Errorf("placed again, host %s has %d VMs; %d are recorded: verify the log", h.Host, h.VMs, want[h.Host])
		}
	}
	return hosts, nil
}
