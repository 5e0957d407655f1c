package proof

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// memory is a medium; lose drops writes to a place.
type memory struct {
	b    []byte
	lose func(off int64) bool
}

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	if copy(p, m.b[off:]) < len(p) {
		return errors.New("past the end")
	}
	return nil
}

func (m *memory) WriteAt(_ context.Context, p []byte, off int64) error {
	if m.lose == nil || !m.lose(off) {
		copy(m.b[off:], p)
	}
	return nil
}

func (m *memory) Flush(context.Context) error { return nil }

var nonce = domain.DigestOf([]byte("lease"))

func canaries(t *testing.T, size int64, attempt uint32, name string) *Canaries {
	t.Helper()
	c, err := NewCanaries(nonce, attempt, name, size, make([]byte, CanaryBytes))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{3 * CanaryBytes, 3*CanaryBytes + 512, 100 * CanaryBytes, 16<<20 + 3*512, 1 << 40} {
		c := canaries(t, size, 0, "1")
		if want := min(size/CanaryBytes, MaxCanaries); int64(c.Len()) != want {
			t.Errorf("%d bytes: %d canaries, want %d", size, c.Len(), want)
		}
		if c.at[0] != 0 || c.at[len(c.at)-1] != size-CanaryBytes {
			t.Errorf("%d bytes: the ends have no canaries: %v", size, c.at)
		}
		for i := 1; i < len(c.at); i++ {
			if gap := c.at[i] - c.at[i-1]; gap < CanaryBytes || gap > 2*(size/MaxCanaries)+3*CanaryBytes {
				t.Errorf("%d bytes: canary %d is %d bytes after the one before it", size, i, gap)
			}
		}
	}
	for _, size := range []int64{0, -1, 2 * CanaryBytes, 3*CanaryBytes + 1} {
		if _, err := NewCanaries(nonce, 0, "", size, make([]byte, CanaryBytes)); err == nil {
			t.Errorf("canaries on %d bytes", size)
		}
	}
}

// Canaries of another lease, attempt or medium are elsewhere and say something else.
func TestCanariesDiffer(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	base := canaries(t, size, 1, "1")
	other, err := NewCanaries(domain.DigestOf([]byte("other")), 1, "1", size, make([]byte, CanaryBytes))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for name, c := range map[string]*Canaries{"base": base, "lease": other, "attempt": canaries(t, size, 2, "1"), "medium": canaries(t, size, 1, "2")} {
		for _, off := range c.at {
			b := c.content(off)
			for i := 0; i < CanaryBytes; i += pieceBytes {
				here, piece := fmt.Sprintf("%s at %d", name, off), string(b[i:i+pieceBytes])
				if before, ok := seen[piece]; ok {
					t.Fatalf("%s says what %s says", here, before)
				}
				seen[piece] = here
			}
		}
		same := 0
		for i, off := range c.at {
			if off == base.at[i] {
				same++
			}
		}
		if name != "base" && same > c.Len()/4 {
			t.Errorf("%s: %d of %d places are the same", name, same, c.Len())
		}
	}
	if again := canaries(t, size, 1, "1"); fmt.Sprint(again.at) != fmt.Sprint(base.at) || !bytes.Equal(again.content(0), base.content(0)) {
		t.Error("a second derivation differs: a restarted host would not know its canaries")
	}
}

func TestPlantAndGone(t *testing.T) {
	t.Parallel()
	ctx, m := t.Context(), &memory{b: make([]byte, 4<<20)}
	c := canaries(t, int64(len(m.b)), 0, "1")
	if missing, err := plant(ctx, c, m); missing != -1 || err != nil {
		t.Fatal(missing, err)
	}
	if gone, survivor, err := c.Gone(ctx, m); gone != 0 || survivor != 0 || err != nil {
		t.Errorf("before: %d gone, %d, %v", gone, survivor, err)
	}
	full := bytes.Clone(m.b)
	for i, off := range c.at { // one piece of one canary is enough
		clear(m.b)
		at := off + int64(i%(CanaryBytes/pieceBytes))*pieceBytes
		copy(m.b[at:], full[at:at+pieceBytes])
		if gone, survivor, err := c.Gone(ctx, m); gone != c.Len()-1 || survivor != off || err != nil {
			t.Errorf("a piece left at %d: %d gone, survivor %d, %v", at, gone, survivor, err)
		}
	}
	clear(m.b)
	if gone, survivor, err := c.Gone(ctx, m); gone != c.Len() || survivor != -1 || err != nil {
		t.Errorf("after: %d gone, %d, %v", gone, survivor, err)
	}
	for i, off := range c.at {
		if i%15 != 0 { // both ends and some between them
			continue
		}
		m.lose = func(at int64) bool { return at == off }
		clear(m.b)
		if missing, err := plant(ctx, c, m); missing != off || err != nil {
			t.Errorf("the canary lost at %d: %d, %v", off, missing, err)
		}
	}
}

func plant(ctx context.Context, c *Canaries, m Medium) (int64, error) {
	if err := c.Plant(ctx, m); err != nil {
		return 0, err
	}
	return c.Landed(ctx, m)
}

func TestReadAll(t *testing.T) {
	t.Parallel()
	const size = 1<<20 + 512
	for _, want := range []byte{0, 0xFF} {
		clean := bytes.Repeat([]byte{want}, size)
		if read, dirty, err := ReadAll(t.Context(), &memory{b: clean}, size, make([]byte, 64<<10), want); read != size || dirty != -1 || err != nil {
			t.Errorf("clean: %d, %d, %v", read, dirty, err)
		}
		for _, at := range []int64{0, 1, 64<<10 - 1, 64 << 10, 1 << 20, size - 1} {
			b := bytes.Clone(clean)
			b[at] ^= 1
			read, dirty, err := ReadAll(t.Context(), &memory{b: b}, size, make([]byte, 64<<10), want)
			if dirty != at || read <= at || err != nil {
				t.Errorf("byte %d: read %d, dirty %d, %v", at, read, dirty, err)
			}
		}
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := ReadAll(stopped, &memory{b: make([]byte, size)}, size, make([]byte, 4096), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a reading cut short: %v", err)
	}
	lazy := lazy{}
	if _, dirty, _ := ReadAll(t.Context(), lazy, size, make([]byte, 4096), 0); dirty < 0 {
		t.Error("a medium that reads nothing is called empty")
	}
}

// lazy says that it read, and did not.
type lazy struct{}

func (lazy) ReadAt(context.Context, []byte, int64) error  { return nil }
func (lazy) WriteAt(context.Context, []byte, int64) error { return nil }
func (lazy) Flush(context.Context) error                  { return nil }

func TestSample(t *testing.T) {
	t.Parallel()
	m := &memory{b: make([]byte, 8<<20)}
	c := canaries(t, int64(len(m.b)), 0, "1")
	digest := func() (int64, domain.Digest) {
		h := NewSample()
		read, err := c.Sample(t.Context(), m, int64(len(m.b)), h)
		if err != nil {
			t.Fatal(err)
		}
		return read, DigestOf(h)
	}
	read, empty := digest()
	if read != samples*CanaryBytes {
		t.Errorf("read %d", read)
	}
	for i := range m.b {
		m.b[i] = 1
	}
	if _, d := digest(); d == empty {
		t.Error("the digest does not depend on the content")
	}
}
