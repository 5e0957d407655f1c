package pci

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVPD(t *testing.T) {
	t.Parallel()
	const whole = "\x82\x05\x00NVNIC\x90\x19\x00PN\x03ABCSN\x06MT2333V0\x02hiRV\x02\x5a\x00\x91\x04\x00RW\x01\x00\x78"
	v, err := parseVPD([]byte(whole))
	if want := (&VPD{Name: "NVNIC", Fields: map[string]string{"PN": "ABC", "SN": "MT2333", "V0": "hi"}}); err != nil || !cmp.Equal(want, v) {
		t.Errorf("%+v %v", v, err)
	}
	for n := range len(whole) {
		_, _ = parseVPD([]byte(whole[:n])) // no panic, whatever is missing
	}
	for _, bad := range []string{"\x82", "\x82\x05\x00NV", "\x90\x03\x00SN\x09", "\x01\x02\x03", "\x90\x02\x00SN"} {
		if v, err := parseVPD([]byte(bad)); err == nil {
			t.Errorf("%q is read as %+v", bad, v)
		}
	}
	if v, err := parseVPD([]byte("\x90\x09\x00SN\x06a\x1b[2Jb\x78")); err != nil || v.Fields["SN"] != "" {
		t.Errorf("control characters: %+v %v", v, err)
	}
}

func FuzzVPD(f *testing.F) {
	f.Add([]byte("\x82\x05\x00NVNIC\x90\x0f\x00PN\x03ABCSN\x06MT2333\x78"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseVPD(b) })
}
