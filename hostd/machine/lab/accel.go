package lab

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/gpuaas/gpuaas/hostd/durable"
)

// trial is what was found out about KVM, kept for as long as the kernel runs.
type trial struct {
	BootID string `json:"boot_id"`
	KVM    bool   `json:"kvm"`
}

// tryKVM says whether firmware runs under KVM: it starts one and waits for its
// first words. A kernel can offer /dev/kvm and yet run nothing in it.
func (m *Machine) tryKVM(ctx context.Context) bool {
	switch m.o.Accel {
	case "kvm":
		return true
	case "tcg":
		return false
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return false
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	path := filepath.Join(m.o.Dir, "accel.json")
	var t trial
	if durable.ReadJSON(path, &t) == nil && t.BootID != "" && t.BootID == string(bytes.TrimSpace(boot)) {
		return t.KVM
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // it never ends by itself when it works
	defer cancel()
	out, _ := m.o.Run(ctx, "qemu-system-x86_64", "-machine", "q35,accel=kvm", "-cpu", "host", "-m", "128",
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-drive", "if=pflash,format=raw,readonly=on,file="+firmware,
		"-drive", "if=pflash,format=raw,snapshot=on,file="+firmwareVars)
	t = trial{BootID: string(bytes.TrimSpace(boot)), KVM: bytes.Contains(out, []byte("BdsDxe"))}
	if err := durable.WriteJSON(path, t); err != nil {
		m.o.Log.Warn("the trial of KVM is not remembered", "err", err)
	}
	return t.KVM
}
