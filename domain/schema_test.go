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
	const schema, want = "gpuaas-world-10", "sha256:36c4981ce2c60dcf402bc4a9db4647d7abca351fa3ca90a744afa422cb4aea19"
	if got := s.w.Hash().String(); snapshotSchema != schema || got != want {
		t.Fatalf("the world is encoded as %s under the schema %q, it was %s under %q: change snapshotSchema and this test together", got, snapshotSchema, want, schema)
	}
}
