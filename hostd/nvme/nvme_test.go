package nvme_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/hostd/nvme"
	"github.com/gpuaas/gpuaas/hostd/nvme/nvmefake"
)

// raw is the answer to a command as bytes.
func raw(t testing.TB, c nvme.Controller, cmd nvme.Command, size int) []byte {
	t.Helper()
	cmd.Data = make([]byte, size)
	if _, err := c.Admin(context.Background(), &cmd); err != nil {
		t.Fatal(err)
	}
	return cmd.Data
}

// pages are good answers of every kind, and what reads them.
func pages(t testing.TB) map[string]struct {
	b     []byte
	parse func([]byte) (any, error)
} {
	t.Helper()
	d := nvmefake.New("S1", 1<<20)
	c := d.Open()
	log := func(id uint32, size int) []byte {
		return raw(t, c, nvme.Command{Opcode: nvme.OpGetLogPage, NSID: nvme.AllNamespaces, CDW10: id}, size)
	}
	identify := func(cns, nsid uint32) []byte {
		return raw(t, c, nvme.Command{Opcode: nvme.OpIdentify, CDW10: cns, NSID: nsid}, 4096)
	}
	type page = struct {
		b     []byte
		parse func([]byte) (any, error)
	}
	return map[string]page{
		"controller":  {identify(nvme.CNSController, 0), func(b []byte) (any, error) { return nvme.ParseIdentity(b) }},
		"namespace":   {identify(nvme.CNSNamespace, 1), func(b []byte) (any, error) { return nvme.ParseNamespace(b, 1) }},
		"namespaces":  {identify(nvme.CNSActiveNamespaces, 0), func(b []byte) (any, error) { return nvme.ParseNamespaceList(b) }},
		"controllers": {identify(nvme.CNSControllers, 0), func(b []byte) (any, error) { return nvme.ParseControllerList(b) }},
		"smart":       {log(2, 512), func(b []byte) (any, error) { return nvme.ParseSMART(b) }},
		"firmware":    {log(3, 512), func(b []byte) (any, error) { return nvme.ParseFirmware(b) }},
		"sanitize":    {log(0x81, 512), func(b []byte) (any, error) { return nvme.ParseSanitizeStatus(b) }},
		"locking": {
			raw(t, c, nvme.Command{Opcode: nvme.OpSecurityReceive, CDW10: 1<<24 | 1<<8}, 2048),
			func(b []byte) (any, error) { return nvme.ParseLocking(b) },
		},
	}
}

// Every page is read whole, and no page that is cut short is read at all.
func TestPages(t *testing.T) {
	t.Parallel()
	for name, p := range pages(t) {
		if _, err := p.parse(p.b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, n := range []int{0, 1, 7, 47, 100, 511} {
			if n >= len(p.b) || name == "locking" && n >= 80 {
				continue
			}
			var bad *nvme.PageError
			if v, err := p.parse(p.b[:n]); !errors.As(err, &bad) {
				t.Errorf("%s of %d bytes: %+v, %v", name, n, v, err)
			}
		}
	}
}

// What makes no sense is refused with what makes none.
func TestPagesOfNonsense(t *testing.T) {
	t.Parallel()
	p := pages(t)
	for _, c := range []struct {
		page string
		at   int
		put  string
		says string
	}{
		{"controller", 4, strings.Repeat(" ", 20), "no serial"},
		{"controller", 5, "\x80", "not ASCII"},
		{"controller", 64, strings.Repeat("\x00", 8), "firmware"},
		{"controller", 111, "\x02", "not an I/O controller"},
		{"controller", 288, "\x01", "more than 64 bits"},
		{"controller", 296, "\xff\xff\xff\xff", "unallocated"},
		{"controller", 516, "\x00\x00\x00\x00", "no namespace can exist"},
		{"namespace", 0, strings.Repeat("\xff", 8), "blocks of"},
		{"namespace", 0, strings.Repeat("\x00", 8), "0 blocks"},
		{"namespace", 8, strings.Repeat("\xff", 8), "capacity"},
		{"namespace", 26, "\x09", "LBA format 9 of 3"},
		{"namespace", 26, "\x60", "LBA format 48 of 3"},
		{"namespace", 130, "\x08", "2^8"},
		{"namespace", 130, "\xff", "2^255"},
		{"namespace", 33, "\x07", "read as 7"},
		{"namespace", 32, "\xff", "127%"},
		{"namespaces", 4, "\x01", "out of order"},
		{"namespaces", 8, "\x03", "follow its end"},
		{"namespaces", 0, "\xff\xff\xff\xff", "out of order"},
		{"controllers", 0, "\xff\xff", "entries"},
		{"controllers", 0, "\x02", "out of order"},
		{"smart", 0, "\xc0", "reserved"},
		{"smart", 168, "\x01", "more than 64 bits"},
		{"firmware", 0, "\x00", "active slot 0"},
		{"firmware", 0, "\x07", "active slot 7"},
		{"firmware", 9, "\x01", "not ASCII"},
		{"sanitize", 2, "\x07", "state 7"},
		{"sanitize", 2, "\x01", "no sanitize action"},
		{"locking", 0, "\xff", "says it has"},
		{"locking", 3, "\x01", "says it has"},
		{"locking", 4, "\x01", "version"},
		{"locking", 51, "\xf0", "cut short"},
		{"locking", 67, "\x04", "locking feature of 4"},
	} {
		b := append([]byte(nil), p[c.page].b...)
		copy(b[c.at:], c.put)
		v, err := p[c.page].parse(b)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s with %q at %d: %+v, %v; want %q", c.page, c.put, c.at, v, err, c.says)
		}
	}
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	d := nvmefake.New("S6CK", 3<<20)
	d.Namespaces[1].Format = 2
	ctx, c := t.Context(), d.Open()
	id, err := nvme.Identify(ctx, c)
	if err != nil || id.Serial != "S6CK" || id.Model != "Fake NVMe 4000" || id.Firmware != "GDC5302Q" || !id.SanitizeCrypto() || !id.CryptoFormat() || !id.Management() || id.FirmwareSlots() != 2 {
		t.Errorf("%+v, %v", id, err)
	}
	n, err := nvme.IdentifyNamespace(ctx, c, 1)
	want := &nvme.Namespace{ID: 1, Blocks: 768, Capacity: 768, Format: 2, BlockBytes: 4096, MetadataBytes: 8, Deallocated: nvme.ReadsZero, GUID: "36000000000000000000000000000001"}
	if diff := cmp.Diff(want, n); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := nvme.IdentifyNamespace(ctx, c, 9); err == nil || !strings.Contains(err.Error(), "not active") {
		t.Errorf("an inactive namespace: %v", err)
	}
	d.Locking.Enabled, d.Locking.Locked, d.Locking.Shadowed = true, true, true
	if l, err := nvme.ReadLocking(ctx, c); err != nil || *l != (nvme.Locking{Supported: true, Enabled: true, Locked: true, Shadowed: true}) {
		t.Errorf("%+v, %v", l, err)
	}
	d.MediaErr = 3
	if e, err := nvme.ReadErrors(ctx, c); err != nil || len(e) != 1 || e[0].Count != 3 {
		t.Errorf("%+v, %v", e, err)
	}
}

// The dwords of the commands that erase, by hand from the specification.
func TestCommandDwords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := nvmefake.New("S1", 1<<20)
		var got []nvme.Command
		d.Hook = func(op *nvmefake.Op, _ func() error) error { got = append(got, *op.Cmd); return nil }
		ctx, c := t.Context(), d.Open()
		n := &nvme.Namespace{ID: 5, Format: 0x12, Extended: true, PI: 0x9}
		for _, err := range []error{
			nvme.FormatNamespace(ctx, c, n, nvme.EraseCrypto), nvme.StartSanitize(ctx, c, nvme.SanitizeKeysGone), nvme.StartSanitize(ctx, c, nvme.SanitizeRewrite),
			nvme.AllowWrites(ctx, c, 5),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		want := []nvme.Command{
			// LBAFL 2, MSET, PI 1, PIL, SES 2, LBAFU 1
			{Opcode: 0x80, NSID: 5, CDW10: 2 | 1<<4 | 1<<5 | 1<<8 | 2<<9 | 1<<12, Timeout: nvme.FormatTimeout},
			{Opcode: 0x84, CDW10: 4},
			{Opcode: 0x84, CDW10: 3 | 1<<4},
			{Opcode: 0x09, NSID: 5, CDW10: 0x84},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// Commands that only ask are asked again after an interruption, a few times.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	for errno, tries := range map[error]int{unix.EINTR: 4, unix.EAGAIN: 4, unix.ENODEV: 1, nvme.InternalError: 1} {
		synctest.Test(t, func(t *testing.T) {
			d, n := nvmefake.New("S1", 1<<20), 0
			d.Hook = func(*nvmefake.Op, func() error) error { n++; return errno }
			if _, err := nvme.Identify(t.Context(), d.Open()); !errors.Is(err, errno) || n != tries {
				t.Errorf("%v: %v after %d tries, want %d", errno, err, n, tries)
			}
		})
	}
}

func TestBuffer(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 512, 4096, 4<<20 + 512} {
		if b := nvme.Buffer(n); len(b) != n || cap(b) != n || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%4096 != 0 {
			t.Errorf("%d bytes: %d at %p", n, len(b), b)
		}
	}
}

// tree makes files, with content, and directories (names that end with /).
func tree(t *testing.T, files map[string]string) nvme.Finder {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		dir := path
		if !strings.HasSuffix(name, "/") {
			dir = filepath.Dir(path)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if dir != path {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return nvme.Finder{Sys: filepath.Join(root, "sys"), Dev: filepath.Join(root, "dev")}
}

// Controllers are found by address, disks by namespace id, whatever their names.
func TestFinder(t *testing.T) {
	t.Parallel()
	const address = "0000:18:00.0"
	f := tree(t, map[string]string{
		"sys/bus/pci/devices/0000:18:00.0/nvme/nvme3/": "", "sys/bus/pci/devices/0000:19:00.0/": "", "sys/bus/pci/devices/0000:1a:00.0/nvme/": "",
		"sys/bus/pci/devices/0000:1b:00.0/nvme/nvme5/": "", "sys/bus/pci/devices/0000:1b:00.0/nvme/nvme6/": "",
		"sys/class/nvme/nvme3/nvme3n1/nsid": "2\n", "sys/class/nvme/nvme3/nvme1c3n7/nsid": "1\n", "sys/class/nvme/nvme3/ng3n1/nsid": "2\n", "sys/class/nvme/nvme3/hwmon1/": "",
		"dev/nvme3": "", "dev/nvme3n1": "", "dev/nvme1n7": "",
	})
	d, err := f.Open(t.Context(), address)
	if err != nil || d.Name() != "nvme3" {
		t.Fatalf("%v, %v", d, err)
	}
	defer d.Close()
	// A plain file is no block device, and its name is in the error: that is how
	// far a test gets without a drive.
	for nsid, disk := range map[uint32]string{2: "nvme3n1", 1: "nvme1n7", 9: "no disk of namespace 9"} {
		if _, err := d.Namespace(t.Context(), nsid); err == nil || !strings.Contains(err.Error(), disk) {
			t.Errorf("namespace %d: %v, want %s", nsid, err, disk)
		}
	}
	if _, err := d.Admin(t.Context(), &nvme.Command{Opcode: nvme.OpIdentify, Data: make([]byte, 4096)}); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("an admin command to a file: %v", err)
	}
	if err := d.Reset(t.Context()); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("a reset of a file: %v", err)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := d.Admin(late, &nvme.Command{Opcode: nvme.OpIdentify}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	for address, says := range map[string]string{
		"0000:19:00.0": "not bound", "0000:1a:00.0": "no controller yet", "0000:1b:00.0": "two controllers", "0000:ff:00.0": "not there",
		"18:00.0": "no PCI address", "../../etc": "no PCI address", "": "no PCI address",
	} {
		if _, err := f.Open(t.Context(), address); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %s", address, err, says)
		}
	}
}
