package domain

import "testing"

// A snapshot of another encoding must not be read as this one. Whoever changes how
// the world is encoded changes this hash, and snapshotSchema with it.
func TestSnapshotSchemaNamesTheEncoding(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 8, "r1")
	s.sku("gpu-1x", 1, 2_490_000)
	f := s.tenant("acme", 100_000_000)
	s.launch(f, "a", "gpu-1x", 2)
	h.boot()
	s.after(2 * Hour)
	const schema, want = "gpuaas-world-11", "sha256:b57507f3612e1d51fc3ef827970c702d1334bdaee1fa04b4b42f8827a222a742"
	if got := s.w.Hash().String(); snapshotSchema != schema || got != want {
		t.Fatalf("the world is encoded as %s under the schema %q, it was %s under %q: change snapshotSchema and this test together", got, snapshotSchema, want, schema)
	}
}
