package linux

import (
	"fmt"
	"os"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/program"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

const confidential = domain.SEVSNP | domain.TDX

// possible are the features that this host has the programs for. Confidential VMs are
// not among them: whether processor and firmware can do that is an operator's word.
func (o *Options) possible() *domain.Features {
	var f domain.Features
	for _, one := range []domain.Features{domain.SecureBoot, domain.VTPM} {
		if len(o.lacks(one)) == 0 {
			f |= one
		}
	}
	return &f
}

// lacks says what is not there for the features.
func (o *Options) lacks(f domain.Features) (missing []string) {
	if f.Has(domain.SecureBoot) {
		if o.Kernel != "" {
			return []string{"firmware (guests boot a kernel)"}
		}
		missing = absent(o.SecureFirmware, o.SecureFirmwareVars)
	}
	if f.Has(domain.VTPM) {
		missing = append(missing, program.Missing("swtpm", "swtpm_setup")...)
	}
	if f&confidential != 0 {
		if o.ConfidentialFirmware == "" {
			return append(missing, "confidential_firmware")
		}
		missing = append(missing, absent(o.ConfidentialFirmware)...)
	}
	return missing
}

func absent(files ...string) (missing []string) {
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			missing = append(missing, f)
		}
	}
	return missing
}

// equip gives the domain what its VM was promised. A host that does not offer it any
// more starts nothing less. Fault: domain.no_feature.
func (m *Machine) equip(s *vm.Spec, want domain.Features) error {
	if !m.o.Features.Has(want) {
		return &machine.Fault{Code: "domain.no_feature", Err: fmt.Errorf("the VM has %v, this host offers %v", want.Names(), m.o.Features.Names())}
	}
	s.VTPM = want.Has(domain.VTPM)
	switch {
	case want.Has(domain.SEVSNP):
		s.Passthrough.Confidential = vm.SEVSNP
	case want.Has(domain.TDX):
		s.Passthrough.Confidential = vm.TDX
	}
	if s.Kernel != "" {
		return nil
	}
	s.Firmware, s.FirmwareVars = m.o.Firmware, m.o.FirmwareVars
	if s.SecureBoot = want.Has(domain.SecureBoot); s.SecureBoot {
		s.Firmware, s.FirmwareVars = m.o.SecureFirmware, m.o.SecureFirmwareVars
	}
	if want&confidential != 0 {
		s.Firmware = m.o.ConfidentialFirmware
	}
	return nil
}
