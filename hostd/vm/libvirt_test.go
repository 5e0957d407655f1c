package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// embedded is libvirt's QEMU driver inside virsh: no daemon, everything below root.
type embedded struct {
	t    *testing.T
	root string
}

// newLibvirt makes one, or skips the test where there is no libvirt.
func newLibvirt(t *testing.T, conf string) *embedded {
	t.Helper()
	for _, program := range []string{"virsh", "qemu-system-x86_64", "swtpm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED, libvirt was not asked: no %s (deploy/lab/packages.txt)", program)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, libvirt was not asked: its QEMU driver wants root here")
	}
	root, err := os.MkdirTemp("/var/tmp", "gpuaas-vm-") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if err := os.Chmod(root, 0o711); err != nil { // a VM's own account goes through it
		t.Fatal(err)
	}
	// Asking QEMU what it can do as another account takes most of a minute.
	conf += "user = \"root\"\ngroup = \"root\"\ncgroup_controllers = []\nnamespaces = []\nremember_owner = 0\nstdio_handler = \"file\"\n"
	if err = os.Mkdir(filepath.Join(root, "etc"), 0o755); err == nil {
		err = os.WriteFile(filepath.Join(root, "etc", "qemu.conf"), []byte(conf), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &embedded{t, root}
}

// virsh runs commands, separated by semicolons.
func (e *embedded) virsh(commands string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "virsh", "--quiet", "-c", "qemu:///embed?root="+e.root, commands)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LIBVIRT_LOG_OUTPUTS=3:file:"+filepath.Join(e.root, "virsh.log"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (e *embedded) must(commands string) string {
	e.t.Helper()
	out, err := e.virsh(commands)
	if err != nil {
		e.t.Fatalf("virsh %s: %v\n%s", commands, err, out)
	}
	return out
}

var pciAddress = regexp.MustCompile(`<address type=["']pci["'] [^>]*?/?>`)

// addresses are the guest addresses in a domain, sorted.
func addresses(xml string) []string {
	all := pciAddress.FindAllString(strings.ReplaceAll(xml, `"`, `'`), -1)
	for i := range all {
		all[i] = strings.TrimSuffix(strings.TrimSuffix(all[i], ">"), "/")
	}
	slices.Sort(all)
	return all
}

// TestLibvirtTakesIt: libvirt's schema and its QEMU driver accept every golden
// file, and move no device.
func TestLibvirtTakesIt(t *testing.T) {
	t.Parallel()
	l := newLibvirt(t, "")
	for name, g := range golden() {
		if g.old {
			t.Logf("%s: not asked, libvirt 9 has no words for it", name)
			continue
		}
		path := "testdata/" + name + ".xml"
		ours, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		theirs := l.must("define --validate " + path + "; dumpxml vm_1 --inactive; undefine vm_1 --nvram")
		want := addresses(string(ours))
		// A q35 has a SATA controller, whoever asks for it or not.
		got := slices.DeleteFunc(addresses(theirs), func(a string) bool { return strings.Contains(a, "slot='0x1f'") })
		if len(got) == 0 || !slices.Equal(got, want) {
			t.Errorf("%s: libvirt has other addresses:\n%s\nwant\n%s", path, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for _, unwanted := range []string{"<video", "<graphics", "type='usb' index='0' model='pi", "bus='usb'", "<redirdev", "spice"} {
			if strings.Contains(theirs, unwanted) {
				t.Errorf("%s: libvirt added %s", path, unwanted)
			}
		}
	}
}
