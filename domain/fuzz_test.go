package domain

import (
	"bytes"
	"encoding/json"
	"testing"
)

// Each decoder has a fuzz target of its own: whatever bytes come, it is an error or
// a value, never a panic, and a value that was read is written and read the same
// again. `make test-long` runs them all; FuzzDecode feeds all at once.

// reads checks one decoder with bytes, twice.
func reads[T any](t *testing.T, b []byte, decode func([]byte) (T, error), encode func(T) []byte) (v T, ok bool) {
	v, err := decode(bytes.Clone(b))
	if err != nil {
		return v, false
	}
	once := encode(v)
	again, err := decode(bytes.Clone(once))
	if err != nil {
		t.Fatalf("written, and not read again: %v", err)
	}
	if twice := encode(again); !bytes.Equal(once, twice) {
		t.Fatalf("written as\n%x\nand read again, as\n%x", once, twice)
	}
	return v, true
}

// fuzzSite is a site that has something of everything a seed needs.
func fuzzSite(f *testing.F) (*site, *fakeHost) {
	s := newSite(f)
	s.check = false
	h := s.host("h", 2, "r")
	s.sku("gpu-1x", 1, 1)
	s.launch(s.tenant("acme", 1e9), "", "gpu-1x", 1)
	return s, h
}

func FuzzCommit(f *testing.F) {
	s, _ := fuzzSite(f)
	for _, b := range s.log {
		f.Add(b)
	}
	var used Buffer
	f.Fuzz(func(t *testing.T, b []byte) {
		sameEvents(t, &used, b)
		c, ok := reads(t, b, DecodeCommit, EncodeCommit)
		if !ok {
			return
		}
		lean, err := DecodeCommitEvents(bytes.Clone(b))
		if err != nil {
			t.Fatalf("read with its commands, but not without: %v", err)
		}
		for i := range c.Decisions {
			if len(c.Decisions[i].Events) != len(lean.Decisions[i].Events) {
				t.Fatalf("decision %d has %d events with its command, %d without", i, len(c.Decisions[i].Events), len(lean.Decisions[i].Events))
			}
		}
	})
}

// FuzzEvents: the first byte says the type.
func FuzzEvents(f *testing.F) {
	events, commands := EventTypes(), CommandTypes()
	s, _ := fuzzSite(f)
	for _, b := range s.log {
		c, err := DecodeCommit(b)
		if err != nil {
			f.Fatal(err)
		}
		for i := range c.Decisions {
			for _, e := range c.Decisions[i].Events {
				for n, typ := range events {
					if typ == e.Body.EventType() {
						f.Add(byte(n), false, encodeMessage(e.Body))
					}
				}
			}
		}
	}
	write := func(m message) []byte { return encodeMessage(m) }
	f.Fuzz(func(t *testing.T, n byte, command bool, b []byte) {
		if command {
			typ := commands[int(n)%len(commands)]
			reads(t, b, func(b []byte) (message, error) { return decodeCommandBody(typ, b) }, write)
			return
		}
		typ := events[int(n)%len(events)]
		v, ok := reads(t, b, func(b []byte) (message, error) { return decodeEvent(typ, forms.version(typ), b) }, write)
		if !ok {
			return
		}
		e := v.(EventBody) // what the feed and the read models ask of it
		_, _, _ = e.Owner(), e.Resource(), e.EventType()
		if text, err := json.Marshal(e); err == nil && !json.Valid(text) {
			t.Fatalf("%s", text)
		}
	})
}

func FuzzReport(f *testing.F) {
	_, h := fuzzSite(f)
	for _, r := range []Report{
		{Kind: ReportInventory, Inventory: h.m},
		{Kind: ReportReady, VM: &VMReport{Address: "10.0.0.1"}},
		{Kind: ReportWiped, Wipe: &WipeReport{Devices: []DeviceWipe{{Component: "nvme", Serial: "x"}}}},
		{Kind: ReportFaulted, Fault: &FaultReport{}},
	} {
		f.Add(EncodeReport(&r))
		f.Add(EncodeSignedReport(&SignedReport{Report: EncodeReport(&r), Signature: make([]byte, 64)}))
	}
	f.Add(EncodeHeartbeat(&Heartbeat{Host: h.id, Version: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		reads(t, b, DecodeReport, EncodeReport)
		reads(t, b, DecodeSignedReport, EncodeSignedReport)
		reads(t, b, DecodeHeartbeat, EncodeHeartbeat)
	})
}

func FuzzPlacement(f *testing.F) {
	_, h := fuzzSite(f)
	f.Add(EncodePlacement(h.placement()))
	f.Fuzz(func(t *testing.T, b []byte) { reads(t, b, DecodePlacement, EncodePlacement) })
}

// FuzzSlotMap: a map from anywhere is judged without a panic, and its digest does
// not depend on how it came.
func FuzzSlotMap(f *testing.F) {
	_, h := fuzzSite(f)
	f.Add(encodeMessage(h.m))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := reads(t, b, func(b []byte) (*SlotMap, error) { m := new(SlotMap); return m, decodeMessage(b, m) }, func(m *SlotMap) []byte { return encodeMessage(m) })
		if !ok {
			return
		}
		if m.Check() == nil && len(m.Slots) == 0 {
			t.Fatal("a map without slots can be approved")
		}
		if m.Digest() != DigestOf(encodeMessage(m)) {
			t.Fatal("the digest changed")
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	s, _ := fuzzSite(f)
	f.Add(s.w.Encode())
	f.Add(NewWorld().Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		reads(t, b, DecodeWorld, (*World).Encode)
	})
}

// FuzzText: ids, digests, times and the values of policies as REST sends them.
func FuzzText(f *testing.F) {
	for _, s := range []string{TenantID{1}.String(), DigestOf(nil).String(), "2026-01-02T03:04:05Z", `["a","b"]`, `8`, `true`, `"word"`, `["secure_boot"]`, "null", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var (
			ten TenantID
			cmd CommandID
			dig Digest
			at  Time
		)
		for _, v := range []interface {
			UnmarshalText([]byte) error
			String() string
		}{&ten, &cmd, &dig} {
			if v.UnmarshalText([]byte(s)) == nil && v.String() != "" && v.String() != s { // "": none, also spelled out as a digest of zeros
				t.Fatalf("%q was read as %q", s, v.String())
			}
		}
		if at.UnmarshalText([]byte(s)) == nil {
			var again Time
			if err := again.UnmarshalText([]byte(at.String())); err != nil || again != at {
				t.Fatalf("%q: %v, then %v %v", s, at, again, err)
			}
		}
		var p PolicyValue
		if p.UnmarshalJSON([]byte(s)) == nil {
			if _, err := p.MarshalJSON(); err != nil {
				t.Fatal(err)
			}
		}
		var x Features
		if x.UnmarshalJSON([]byte(s)) == nil {
			if _, err := x.MarshalJSON(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
