package hostd

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// VaultRequest asks for what only the vault holds: the keys and user data of a VM.
type VaultRequest struct {
	VM     domain.VMID   `json:"vm_id"`
	Digest domain.Digest `json:"digest"`
}

// VaultReply is the answer. It is never written to the daemon's directory.
type VaultReply struct {
	SSHKeys  []string `json:"ssh_keys"`
	UserData []byte   `json:"user_data"` // base64 in JSON
}

// fetchSeed adds the VM's keys and user data, if it has any.
func (a *Agent) fetchSeed(ctx context.Context, vm *machine.VM) error {
	if vm.PlacedVM.UserData.IsZero() {
		return nil
	}
	payload, err := json.Marshal(VaultRequest{VM: vm.VM, Digest: vm.PlacedVM.UserData})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	b, err := a.o.Link.RequestVault(ctx, payload)
	if err != nil {
		return &machine.Fault{Code: "vault.unavailable", Err: err}
	}
	var reply VaultReply
	if err := json.Unmarshal(b, &reply); err != nil {
		return &machine.Fault{Code: "vault.bad_answer", Err: fmt.Errorf("%d bytes: %w", len(b), err)}
	}
	vm.SSHKeys, vm.UserData = reply.SSHKeys, reply.UserData
	return nil
}
