package domain

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

// refolds folds the log through memory that is used again, and spoiled each time: a world
// that had kept anything of an event would be another one.
func (s *site) refolds() {
	s.t.Helper()
	var buffer Buffer
	w := NewWorld()
	for _, b := range s.log {
		data := bytes.Clone(b)
		c, err := buffer.Decode(data)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := w.ApplyCommit(c, sha256.Sum256(data)); err != nil {
			s.t.Fatal(err)
		}
		for i := range data {
			data[i] = 'x'
		}
		buffer.spoil()
	}
	if w.Hash() != s.w.Hash() {
		s.t.Fatal("the same log, folded through one buffer, is another world")
	}
}

func (b *Buffer) spoil() {
	clear(b.events.all)
	clear(b.ids.all)
	clear(b.legs.all)
	clear(b.vms.all)
	clear(b.commit.Decisions)
	for _, k := range b.kinds {
		k.slab.(interface{ spoil() }).spoil()
	}
}

func (s *slabOf[T, P]) spoil() { clear(s.all) }

// A buffer that held other commits decodes what a new one does.
func TestBufferDecodesTheSame(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.host("h", 8, "r")
	s.sku("gpu-2x", 2, 1)
	acme := s.tenant("acme", 1e9)
	for range 3 {
		s.launch(acme, "", "gpu-2x", 1)
	}
	var buffer Buffer
	for round := range 2 {
		for n, b := range s.log {
			sameEvents(t, &buffer, b)
			if round == 0 {
				continue
			}
			for cut := range b { // what is spoiled, too
				spoiled := bytes.Clone(b)
				spoiled[cut] ^= 0x55
				sameEvents(t, &buffer, spoiled)
			}
			if n > 40 {
				return
			}
		}
	}
}

func sameEvents(t *testing.T, buffer *Buffer, b []byte) {
	t.Helper()
	want, werr := DecodeCommitEvents(b)
	have, err := buffer.Decode(b)
	switch {
	case (err == nil) != (werr == nil) || err != nil && err.Error() != werr.Error():
		t.Fatalf("%v, want %v", err, werr)
	case err != nil:
		return
	case len(have.Decisions) != len(want.Decisions) || have.N != want.N || have.At != want.At || have.Prev != want.Prev:
		t.Fatalf("%+v, want %+v", have, want)
	}
	for i := range want.Decisions {
		h, w := &have.Decisions[i], &want.Decisions[i]
		if h.Command != w.Command || len(h.Events) != len(w.Events) {
			t.Fatalf("decision %d: %+v, want %+v", i, h, w)
		}
		for k := range w.Events {
			if !bytes.Equal(encodeMessage(&h.Events[k]), encodeMessage(&w.Events[k])) {
				t.Fatalf("decision %d, event %d: %+v, want %+v", i, k, h.Events[k].Body, w.Events[k].Body)
			}
		}
	}
}
