package discovery_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/pci/attr"
)

// small is a host of two nodes with one slot each.
func small(t testing.TB) *host {
	h := newHost(t, 2, 4, 8<<10)
	for n := range 2 {
		parent, a := h.slotPort(0x20*n, n)
		h.gpu(a, parent, n, 0x48b02d0000000000+uint64(n))
		parent, a = h.slotPort(0x20*n, n)
		h.nvme(a, parent, n, fmt.Sprintf("DRIVE%d", n))
		parent, a = h.slotPort(0x20*n, n)
		h.nic(a, parent, n, fmt.Sprintf("b8ce:f603:00a1:%02x00", n), 2)
	}
	return h
}

// What a hostile or broken kernel could put into a file, besides bytes of the
// fuzzer's.
var words = []string{
	"", "0\n", "-1\n", "1\n", "0xffff\n", "18446744073709551615\n", "99999999999999999999999\n", "0-4294967295\n", "0,0,0\n", "\x00\x00", "\x1b[31m\n", "flr\n", "pm\n",
	strings.Repeat("A", 300), strings.Repeat("9", 5000), strings.Repeat("\xff", 4096), strings.Repeat("x", attr.FileMax+1), "26 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n",
	"26 1 259:16 / /mnt rw - ext4 x rw\n", "nvme\n", "0000:01:00.0\n", "0x010802\n", "0x030200\n", "0x060400\n", "4096\n", "InfiniBand\n", "Node 0 MemTotal: 1 kB\n",
}

// mutate does what the bytes say to the files of the tree: four bytes a change.
func mutate(h *host, names []string, in []byte) {
	for n := 0; len(in) >= 4 && n < 16; n++ {
		op, at, with, rest := in[0]%7, int(in[1])<<8|int(in[2]), int(in[3]), in[4:]
		in = rest
		name := names[at%len(names)]
		path, other := name, names[(at*31+with*7)%len(names)]
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		b, _ := os.ReadFile(path)
		switch op {
		case 0:
			_ = os.RemoveAll(path)
		case 1:
			overwrite(path, []byte(words[with%len(words)]))
		case 2: // another file's content
			o, _ := os.ReadFile(other)
			overwrite(path, o)
		case 3: // a link anywhere: to another file, its directory, itself, out
			_ = os.RemoveAll(path)
			to := []string{other, filepath.Dir(other), path, "/etc/passwd", "../../../../../../../../etc"}[with%5]
			if with%2 == 0 && with%5 < 3 {
				to, _ = filepath.Rel(filepath.Dir(path), to)
			}
			_ = os.Symlink(to, path)
		case 4:
			_ = os.RemoveAll(path)
			_ = os.Mkdir(path, 0o755)
		case 5: // bytes of the fuzzer's
			k := min(len(in), with)
			overwrite(path, in[:k])
			in = in[k:]
		case 6: // one bit
			if len(b) > 0 {
				b[with%len(b)] ^= 1 << (with % 8)
				overwrite(path, b)
			}
		}
	}
}

func overwrite(path string, b []byte) {
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		_ = os.RemoveAll(path) // never through a link
	}
	_ = os.WriteFile(path, b, 0o644)
}

// files lists what can be changed: files, and links.
func (h *host) files() []string {
	var out []string
	for _, dir := range []string{h.Dir, h.proc} {
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				out = append(out, p)
			}
			return nil
		})
	}
	slices.Sort(out)
	return out
}

// Whatever the tree says: an error or a map, never a panic; and nothing in a slot
// that a dumb look at the same files finds unsafe.
func FuzzDiscover(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0})
	f.Add([]byte{1, 0, 9, 3, 2, 1, 0, 9, 3, 0, 77, 1, 6, 0, 40, 200})
	for i := range 24 {
		f.Add([]byte{byte(i), byte(i * 3), byte(i * 53), byte(i * 11), byte(i + 3), byte(i), byte(i * 97), byte(i * 5)})
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		h := small(t)
		mutate(h, h.files(), in)
		d, err := discovery.New(h.config())
		if err != nil {
			t.Fatal(err)
		}
		m, err := d.Discover(context.Background())
		if err != nil {
			return
		}
		if len(m.Slots) > 0 && m.Check() != nil {
			t.Fatalf("a map that nobody can approve: %v", m.Check())
		}
		if n := len(domain.EncodeReport(&domain.Report{Inventory: m})); n > 32<<10 {
			t.Errorf("the report has %d bytes", n)
		}
		for _, s := range m.Slots {
			h.suspect(t, s.GPU, s.NUMANode, "gpu")
			h.suspect(t, s.NVMe, s.NUMANode, "nvme")
			h.suspect(t, s.IBVF, s.NUMANode, "ib_vf")
		}
		for _, u := range m.Unsafe {
			if u.Reason == "" || !attr.Printable(u.Reason+u.Address) {
				t.Errorf("unsafe %+q", u)
			}
		}
	})
}

// suspect is a dumb look at one proposed device, with none of the code under test.
func (h *host) suspect(t *testing.T, d domain.Device, node uint8, kind string) {
	if d.Address == "" {
		return
	}
	read := func(name string) string { b, _ := os.ReadFile(name); return strings.TrimSpace(string(b)) }
	dir, err := filepath.EvalSymlinks(filepath.Join(h.Dir, "bus/pci/devices", d.Address))
	if err != nil || !strings.HasPrefix(dir, h.Dir+"/devices/") {
		t.Fatalf("%s is at %q %v", d.Address, dir, err)
	}
	if d.Serial == "" || !attr.Printable(d.Serial+d.Model+d.Firmware) {
		t.Errorf("%s: serial %q, model %q", d.Address, d.Serial, d.Model)
	}
	members, err := os.ReadDir(filepath.Join(dir, "iommu_group", "devices"))
	if err != nil || len(members) == 0 {
		t.Errorf("%s is in no group: %v", d.Address, err)
	}
	for _, m := range members {
		bridge := strings.HasPrefix(read(filepath.Join(h.Dir, "bus/pci/devices", m.Name(), "class")), "0x0604")
		if own := m.Name() == d.Address || kind != "ib_vf" && m.Name()[:len(m.Name())-2] == d.Address[:len(d.Address)-2]; !own && !bridge {
			t.Errorf("%s shares its group with %s", d.Address, m.Name())
		}
	}
	if got := read(dir + "/numa_node"); kind == "gpu" && got != fmt.Sprint(node) {
		t.Errorf("%s: node %s, proposed on %d", d.Address, got, node)
	}
	if resets := read(dir + "/reset_method"); resets == "" && kind == "ib_vf" || resets == "pm" && kind == "ib_vf" {
		t.Errorf("%s has no reset", d.Address)
	}
	for up := filepath.Dir(dir); !strings.HasPrefix(filepath.Base(up), "pci"); up = filepath.Dir(up) {
		c, _ := os.ReadFile(up + "/config")
		if len(c) != 4096 || c[0x106]&0x1d&c[0x104] != 0x1d&c[0x104] {
			t.Errorf("%s: the port %s does not isolate", d.Address, filepath.Base(up))
		}
	}
	if kind != "nvme" {
		return
	}
	mounts := read(h.proc+"/self/mountinfo") + read(h.proc+"/swaps")
	blocks, _ := filepath.Glob(dir + "/nvme/nvme*/nvme*n*")
	for _, b := range blocks {
		if dev := read(b + "/dev"); dev != "" && strings.Contains(mounts, " "+dev+" / ") || strings.Contains(mounts, "/dev/"+filepath.Base(b)+" ") {
			t.Errorf("%s is mounted", d.Address)
		}
		if driver, _ := os.Readlink(dir + "/driver"); filepath.Base(driver) == "nvme" && read(filepath.Join(h.Dir, "class/block", filepath.Base(b), "queue/logical_block_size")) != "512" {
			t.Errorf("%s has blocks of other size", d.Address)
		}
	}
	if len(blocks) > 1 {
		t.Errorf("%s has %d namespaces", d.Address, len(blocks))
	}
}
