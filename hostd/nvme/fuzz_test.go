package nvme_test

import (
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/hostd/nvme"
)

// fuzzPage feeds mutations of a good page to its reader: an error or a value, never
// a panic.
func fuzzPage(f *testing.F, name string, check func(t *testing.T, v any)) {
	p := pages(f)[name]
	f.Add(p.b)
	f.Add([]byte{})
	f.Add(make([]byte, len(p.b)))
	f.Add([]byte(strings.Repeat("\xff", len(p.b))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := p.parse(b); err == nil {
			check(t, v)
		}
	})
}

func FuzzIdentity(f *testing.F) {
	fuzzPage(f, "controller", func(t *testing.T, v any) {
		if id := v.(*nvme.Identity); id.Serial == "" || id.Firmware == "" || id.Namespaces == 0 {
			t.Errorf("%+v", id)
		}
	})
}

func FuzzNamespace(f *testing.F) {
	fuzzPage(f, "namespace", func(t *testing.T, v any) {
		if n := v.(*nvme.Namespace); n.Bytes() <= 0 || n.BlockBytes < 512 || n.Bytes()%int64(n.BlockBytes) != 0 {
			t.Errorf("%+v", n)
		}
	})
}

func FuzzNamespaceList(f *testing.F) {
	fuzzPage(f, "namespaces", func(t *testing.T, v any) {
		if len(v.([]uint32)) > 1024 {
			t.Error("too many")
		}
	})
}

func FuzzControllerList(f *testing.F) {
	fuzzPage(f, "controllers", func(t *testing.T, v any) {
		if len(v.([]uint16)) > 2047 {
			t.Error("too many")
		}
	})
}

func FuzzSMART(f *testing.F) {
	fuzzPage(f, "smart", func(_ *testing.T, v any) { _ = v.(*nvme.SMART).String() })
}

func FuzzFirmware(f *testing.F) {
	fuzzPage(f, "firmware", func(t *testing.T, v any) {
		if w := v.(*nvme.Firmware); w.Active == 0 || w.Slots[w.Active-1] == "" {
			t.Errorf("%+v", w)
		}
	})
}

func FuzzSanitizeStatus(f *testing.F) {
	fuzzPage(f, "sanitize", func(t *testing.T, v any) {
		if s := v.(*nvme.SanitizeStatus); s.Percent() < 0 || s.Percent() > 99 || s.Crypto < 0 || s.String() == "" {
			t.Errorf("%+v", s)
		}
	})
}

func FuzzLocking(f *testing.F) {
	fuzzPage(f, "locking", func(*testing.T, any) {})
}

func FuzzErrors(f *testing.F) {
	f.Add(make([]byte, 128))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := nvme.ParseErrors(b); err == nil && len(e) > len(b)/64 {
			t.Errorf("%d entries in %d bytes", len(e), len(b))
		}
	})
}
