package linux

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
)

// A VM has what it was promised, and nothing of it that was not; a host that does not
// offer it starts nothing.
func TestFeatures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	words := map[domain.Features][]string{
		domain.SecureBoot: {`secure="yes"`, "OVMF_CODE_4M.ms.fd", `<smm state="on">`},
		domain.VTPM:       {"<tpm model=", `type="emulator"`},
	}
	for _, has := range []domain.Features{0, domain.SecureBoot, domain.VTPM, domain.SecureBoot | domain.VTPM} {
		offered := domain.SecureBoot | domain.VTPM
		w.m.o.Features = &offered
		v := w.vm(1)
		v.Features = has
		if err := w.up(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		xml := w.lv.Domains()[v.VM.String()]
		for f, all := range words {
			for _, word := range all {
				if strings.Contains(xml, word) != has.Has(f) {
					t.Errorf("with %v: %q in the domain is %v:\n%s", has.Names(), word, !has.Has(f), xml)
				}
			}
		}
		if err := w.down(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if has == 0 {
			continue
		}
		none := domain.Features(0)
		w.m.o.Features = &none
		if err := w.up(t.Context(), v); code(err) != "domain.no_feature" {
			t.Errorf("a host without %v: %v", has.Names(), err)
		}
		if _, defined := w.lv.Domains()[v.VM.String()]; defined {
			t.Error("a lesser VM was defined")
		}
		if err := w.down(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
}

// What a host offers is what it has the programs for, or what its operator says; never
// confidential VMs by itself.
func TestOfferedFeatures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	base := Options{
		Dir: dir, Uplink: "eth0", Discovery: discovery.Config{Host: "h"},
		Firmware: file("code"), FirmwareVars: file("vars"), SecureFirmware: file("secure"), SecureFirmwareVars: filepath.Join(dir, "none"),
	}
	o, err := base.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if o.Features.Has(domain.SecureBoot) || *o.Features&confidential != 0 {
		t.Errorf("without the variables' template: %v", o.Features.Names())
	}
	if o.Discovery.Features != *o.Features {
		t.Error("the slot map says something else")
	}
	base.SecureFirmwareVars = file("there")
	if o, err = base.withDefaults(); err != nil || !o.Features.Has(domain.SecureBoot) {
		t.Errorf("with all of it: %v, %v", o.Features.Names(), err)
	}
	all := domain.SecureBoot | domain.SEVSNP
	base.Features = &all
	if o, err = base.withDefaults(); err != nil || *o.Features != all {
		t.Errorf("the operator's word: %v, %v", o.Features.Names(), err)
	}
	if missing := o.lacks(all); len(missing) != 1 || missing[0] != "confidential_firmware" {
		t.Errorf("missing is %q", missing)
	}
	o.ConfidentialFirmware = file("measured")
	if missing := o.lacks(all); len(missing) != 0 {
		t.Errorf("missing is %q", missing)
	}
}
