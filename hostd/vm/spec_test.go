package vm

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func spec() *Spec {
	return &Spec{
		Name: "vm_1", UUID: "5e0b1d3c-2f1f-4b52-9f3e-0d6d7f0f0001", MemoryMiB: 512, CPUs: 2,
		Firmware: "/fw/code.fd", FirmwareVars: "/fw/vars.fd", NVRAM: "/vms/nvram.fd",
		Drives:       []Drive{{Path: "/drives/a,b.raw", Serial: "S0"}, {Path: "/drives/1.raw", Serial: "S1"}},
		Accelerators: 2, Seed: "/vms/seed.iso", Bridge: "gbr0", Tap: "gtap0", MAC: "02:00:00:00:00:10",
		ConsoleLog: "/vms/console.log", ReadySocket: "/run/ready",
	}
}

func TestXML(t *testing.T) {
	t.Parallel()
	kvm := spec()
	kvm.KVM = true
	for name, s := range map[string]*Spec{"emulated": spec(), "kvm": kvm} {
		got, err := s.XML()
		if err != nil {
			t.Fatal(err)
		}
		path := "testdata/" + name + ".xml"
		if *update {
			if err := os.WriteFile(path, []byte(got+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got+"\n"); diff != "" {
			t.Errorf("%s (go test -update writes it anew):\n%s", path, diff)
		}
	}
}

func TestXMLRefuses(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*Spec){
		"no drive":          func(s *Spec) { s.Drives = nil },
		"nine drives":       func(s *Spec) { s.Drives = make([]Drive, 9) },
		"long serial":       func(s *Spec) { s.Drives[0].Serial = "123456789012345678901" },
		"serial of options": func(s *Spec) { s.Drives[0].Serial = "S0,addr=3" },
		"no memory":         func(s *Spec) { s.MemoryMiB = 0 },
		"no name":           func(s *Spec) { s.Name = "" },
		"nine accelerators": func(s *Spec) { s.Accelerators = 9 },
	} {
		s := spec()
		edit(s)
		if xml, err := s.XML(); err == nil {
			t.Errorf("%s: %s", name, xml)
		}
	}
}
