package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/wipe/proof"
)

const size = 8 << 20

func drive(t *testing.T, content map[int64]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drive")
	if err := Create(path, size); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, s := range content {
		if _, err := f.WriteAt([]byte(s), at); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func gpt() string {
	b := make([]byte, 2048)
	copy(b[512:], "EFI PART")
	le := binary.LittleEndian
	le.PutUint64(b[512+72:], 2)
	le.PutUint32(b[512+80:], 128)
	le.PutUint32(b[512+84:], 128)
	for i, name := range []string{"esp", "a b"} {
		e := b[1024+128*i:]
		e[0] = 1
		for j, c := range name {
			e[56+2*j] = byte(c)
		}
	}
	return string(b)
}

// gpt4k is gpt on a drive with logical blocks of 4 KiB.
func gpt4k() string {
	g := gpt()
	b := make([]byte, 16<<10)
	copy(b[4096:], g[512:1024])
	copy(b[8192:], g[1024:])
	return string(b)
}

func mbr() string {
	b := make([]byte, 512)
	b[446+4], b[446+20] = 0x83, 0x82
	b[510], b[511] = 0x55, 0xaa
	return string(b)
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	for want, content := range map[string]map[int64]string{
		"empty":                       nil,
		"GPT, 2 partitions: esp, a b": {0: gpt()},
		"MBR, 2 partitions":           {0: mbr()},
		"ext2/3/4":                    {1080: "\x53\xef"},
		"xfs":                         {0: "XFSB"},
		"btrfs":                       {65600: "_BHRfS_M"},
		"LUKS":                        {0: "LUKS\xba\xbe"},
		"LVM physical volume":         {512: "LABELONE"},
		"data of an unknown kind":     {size - 1: "x"},
		"GPT":                         {512: "EFI PART" + strings.Repeat("\xff", 200)},
	} {
		got, err := Identify(drive(t, content))
		if err != nil || (got != want && !(want == "GPT" && strings.HasPrefix(got, want))) {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	for want, content := range map[string]string{
		"empty":                       strings.Repeat("\x00", 3<<20),
		"data of an unknown kind":     strings.Repeat("\x00", 3<<20) + "x",
		"GPT, 2 partitions: esp, a b": gpt4k(),
	} {
		got, err := IdentifyReader(strings.NewReader(content), int64(len(content)))
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
		if got, err := IdentifyReader(strings.NewReader(content), int64(len(content))+512); err == nil && got == "empty" {
			t.Error("a drive that could not be read to its end is called empty")
		}
	}
	if _, err := IdentifyReader(strings.NewReader(""), 0); err == nil {
		t.Error("a drive without a size was named")
	}
	zeros := drive(t, map[int64]string{4096: strings.Repeat("\x00", 1<<20)})
	if got, err := Identify(zeros); got != "empty" || err != nil {
		t.Errorf("stored zeroes are %q, %v", got, err)
	}
}

func TestCreateKeepsData(t *testing.T) {
	t.Parallel()
	path := drive(t, map[int64]string{0: "data"})
	if err := Create(path, size); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); !bytes.HasPrefix(b, []byte("data")) {
		t.Error("Create touched a drive that was there")
	}
	if err := Create(path, 2*size); err == nil {
		t.Error("a drive of another size was taken")
	}
}

func TestWipe(t *testing.T) {
	t.Parallel()
	path := drive(t, map[int64]string{0: gpt(), 3 << 20: "secret", size - 6: "secret"})
	nonce := domain.DigestOf([]byte("lease"))
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Wipe(stopped, path, "S1", size, nonce); !errors.Is(err, context.Canceled) {
		t.Fatalf("a wipe cut short: %v", err)
	}
	if got, _ := Identify(path); got == "empty" {
		t.Error("a wipe cut short looks finished")
	}
	want := domain.DeviceWipe{
		Component: "nvme", Serial: "S1", Method: MethodOverwrite, Result: domain.WipeVerified, Detail: "every byte read back as zero",
		BytesRead: size, SizeBytes: size, Coverage: domain.CoverageAll, Planted: proof.MaxCanaries, Gone: proof.MaxCanaries,
	}
	for range 2 {
		got, err := Wipe(t.Context(), path, "S1", size, nonce)
		if err != nil || !cmp.Equal(got, want) {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) != size || len(bytes.Trim(b, "\x00")) > 0 {
			t.Fatal("the drive is not zero")
		}
	}
	if _, err := Wipe(t.Context(), path, "S1", size/2, nonce); err == nil {
		t.Error("a drive of another size was wiped")
	}
}
