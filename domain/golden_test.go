package domain

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	fastjson "github.com/goccy/go-json"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

var update = flag.Bool("update", false, "write golden files of types that have none")

// fill sets every field of v to something that is not zero and differs from field
// to field, so that a field that is not encoded is missed.
func fill(v reflect.Value, n *int) { fillAs(v, n, "text-%d") }

func fillAs(v reflect.Value, n *int, text string) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillAs(v.Elem(), n, text)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				fillAs(v.Field(i), n, text)
			}
		}
		if p, ok := v.Addr().Interface().(*PolicyValue); ok {
			p.kind = policyList
		}
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(*n+i)%251 + 1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fillAs(v.Index(i), n, text)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf(text, *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(-1000 * *n))
	case reflect.Uint8:
		v.SetUint(uint64(*n)%3 + 1)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(1000 * *n))
	default:
		panic("fill: " + v.Kind().String())
	}
}

// golden is a released form: these bytes must be read, for ever, as this.
type golden struct {
	Type  string          `json:"type"`
	V     int             `json:"v"`
	Bytes string          `json:"bytes"`
	JSON  json.RawMessage `json:"json"`
}

// decodeEvent reads an event of that form.
func decodeEvent(typ string, v uint8, raw []byte) (EventBody, error) {
	return forms.decode(typ, v, func(m message) error { return decodeMessage(raw, m) })
}

// Every event and command type has a golden file of every released version. A file
// is never changed: a changed event gets a new version and an upcaster. Where only
// fields were added, which an old message does not have, the file of the form
// before moves to older/ and stays there.
func TestGoldenFiles(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, dir, typ string, v uint8, body message, decode func([]byte) (message, error)) {
		n := 0
		fill(reflect.ValueOf(body).Elem(), &n)
		text, err := json.MarshalIndent(body, "  ", " ")
		if err != nil {
			t.Fatal(err)
		}
		b := encodeMessage(body)
		path := filepath.Join("testdata", dir, fmt.Sprintf("%s.v%d.json", typ, v))
		file, err := os.ReadFile(path)
		if os.IsNotExist(err) && *update {
			out, _ := json.MarshalIndent(golden{typ, int(v), hex.EncodeToString(b), text}, "", " ")
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, append(out, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		if err != nil {
			t.Fatalf("%s has no golden file: run go test ./domain -run Golden -update: %v", typ, err)
		}
		var g golden
		if err := json.Unmarshal(file, &g); err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(g.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(want)
		if err != nil {
			t.Fatalf("%s: the released form is not read any more: %v", typ, err)
		}
		if diff := cmp.Diff(body, got, cmp.AllowUnexported(PolicyValue{})); diff != "" {
			t.Errorf("%s: the released form is read as something else:\n%s", typ, diff)
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%s is encoded differently than it was released", typ)
		}
		var have, released any
		_ = json.Unmarshal(text, &have)
		_ = json.Unmarshal(g.JSON, &released)
		if diff := cmp.Diff(released, have); diff != "" {
			t.Errorf("%s: its JSON, which the outside reads, changed:\n%s", typ, diff)
		}
	}
	for _, typ := range EventTypes() {
		t.Run(typ, func(t *testing.T) {
			v := forms.version(typ)
			check(t, "events", typ, v, eventTypes[typ](), func(b []byte) (message, error) { return decodeEvent(typ, v, b) })
		})
	}
	for _, typ := range CommandTypes() {
		t.Run("command "+typ, func(t *testing.T) {
			check(t, "commands", typ, 1, commandTypes[typ](), func(b []byte) (message, error) { return decodeCommandBody(typ, b) })
		})
	}
}

// The feed has events written by goccy, in a third of the time: the same bytes as by
// encoding/json, whatever is in them.
func TestEventsAreTheSameJSON(t *testing.T) {
	t.Parallel()
	for _, typ := range EventTypes() {
		for _, text := range []string{"", "text-%d", "<&>\u2028\x00\xff\"\\/\n\u00e9\U0001f600 %d"} {
			body := eventTypes[typ]()
			if n := 0; text != "" {
				fillAs(reflect.ValueOf(body).Elem(), &n, text)
			}
			want, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := fastjson.Marshal(body); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %v\n%s\n%s", typ, err, got, want)
			}
		}
	}
}

// A type that grew fields is read in every form that was released: what has none
// of them is still the same bytes, and says the same to the outside.
func TestOlderGoldenFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*/older/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no older golden files: %v", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			var g golden
			file, err := os.ReadFile(path)
			if err == nil {
				err = json.Unmarshal(file, &g)
			}
			if err != nil {
				t.Fatal(err)
			}
			raw, err := hex.DecodeString(g.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			var got message
			if filepath.Base(filepath.Dir(filepath.Dir(path))) == "commands" {
				got, err = decodeCommandBody(g.Type, raw)
			} else {
				got, err = decodeEvent(g.Type, uint8(g.V), raw)
			}
			if err != nil {
				t.Fatalf("the released form is not read any more: %v", err)
			}
			if !bytes.Equal(encodeMessage(got), raw) {
				t.Error("it is encoded differently than it was released")
			}
			text, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			var have, released any
			_ = json.Unmarshal(text, &have)
			_ = json.Unmarshal(g.JSON, &released)
			if diff := cmp.Diff(released, have); diff != "" {
				t.Errorf("its JSON, which the outside reads, changed:\n%s", diff)
			}
		})
	}
}

func TestUnknownTypesStopTheReader(t *testing.T) {
	t.Parallel()
	if _, err := decodeEvent("slot.danced", 1, nil); err == nil || !bytes.Contains([]byte(err.Error()), []byte(`"slot.danced"`)) {
		t.Errorf("unknown event: %v", err)
	}
	for _, v := range []uint8{0, 9} {
		if _, err := decodeEvent("slot.wiped", v, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprintf(`"slot.wiped" has unknown version %d`, v)) {
			t.Errorf("unknown version %d: %v", v, err)
		}
	}
	b := encodeMessage(&TenantCreated{Name: "x"})
	if _, err := decodeEvent("tenant.created", 1, append(b, 0x50, 0x01)); err == nil {
		t.Error("an unknown field was skipped")
	}
	if _, err := decodeEvent("tenant.created", 1, b[:len(b)-1]); err == nil {
		t.Error("a message that is cut short was read")
	}
}

// A heartbeat of a newer hostd is read as far as it is known; nothing that is folded is.
func TestHeartbeatOfANewerHost(t *testing.T) {
	t.Parallel()
	want := Heartbeat{Host: HostID{1}, Epoch: 2, Version: "newer", Outrun: Head{N: 3, Hash: Digest{4}}}
	b := EncodeHeartbeat(&want)
	newer := protowire.AppendTag(bytes.Clone(b), 17, protowire.VarintType)
	newer = protowire.AppendVarint(newer, 5)
	newer = protowire.AppendTag(newer, 1000, protowire.BytesType)
	newer = protowire.AppendBytes(newer, []byte("something"))
	for name, c := range map[string]struct {
		b  []byte
		ok bool
	}{
		"its own": {b, true}, "newer": {newer, true}, "cut short": {newer[:len(newer)-1], false},
		"a tag and no more": {protowire.AppendTag(bytes.Clone(b), 17, protowire.BytesType), false},
		"a known field":     {protowire.AppendVarint(protowire.AppendTag(bytes.Clone(newer), 4, protowire.VarintType), 9), false},
	} {
		have, err := DecodeHeartbeat(c.b)
		if c.ok != (err == nil) || c.ok && *have != want {
			t.Errorf("%s: %+v, %v", name, have, err)
		}
	}
}

// Whatever bytes come: an error or a value, never a panic; and a commit that is read is
// written as it was.
func FuzzDecode(f *testing.F) {
	s := newSite(f)
	s.check = false
	h := s.host("h", 2, "r")
	s.sku("gpu-1x", 1, 1)
	s.launch(s.tenant("acme", 1e9), "", "gpu-1x", 1)
	for _, b := range s.log {
		f.Add(b)
	}
	f.Add(EncodePlacement(h.placement()))
	f.Add(EncodeReport(&Report{Kind: ReportInventory, Inventory: h.m}))
	f.Add(EncodeHeartbeat(&Heartbeat{Host: h.id, Version: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := DecodeCommit(bytes.Clone(b)); err == nil {
			if _, err := DecodeCommit(EncodeCommit(c)); err != nil {
				t.Fatalf("written, and not read again: %v", err)
			}
		}
		_, _ = DecodeCommitEvents(bytes.Clone(b))
		_, _ = DecodePlacement(b)
		_, _ = DecodeReport(b)
		_, _ = DecodeSignedReport(b)
		_, _ = DecodeHeartbeat(b)
		_, _ = DecodeWorld(b)
	})
}
