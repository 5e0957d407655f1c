// Package nvmefake is an NVMe drive in memory, for tests: it answers admin commands
// as the specification says, stores blocks sparsely, takes its time by the clock
// (use testing/synctest), and can be told to fail. It keeps what a real drive keeps
// over a reset, a power cut and a restart of its host.
//
// A failure is scripted with [Drive.Hook], which stands between the host and the
// drive; what a drive does by itself is in its fields.
package nvmefake

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/hostd/nvme"
)

const chunkBytes = 4096

// Drive is one drive. Fields are changed before it is used, or by [Drive.Change].
type Drive struct {
	Serial, Model, Firmware string
	Slots                   [7]string // firmware revisions
	ActiveSlot, NextSlot    uint8
	OACS, ONCS              uint16
	SANICAP                 uint32
	FNA, CMIC, NWPC         uint8
	Controllers             []uint16 // of the subsystem; the first is this one
	Namespaces              map[uint32]*Namespace
	Detached                []uint32 // namespaces that exist and are attached nowhere
	Capacity                uint64

	// Seconds that the sanitize log estimates, 0xFFFFFFFF: not reported; and how
	// long they take.
	EstimateCrypto, EstimateBlock, EstimateOverwrite uint32
	SanitizeTakes, FormatTakes                       time.Duration
	SanitizeFails                                    bool

	TCG      bool
	Locking  nvme.Locking
	Critical uint8 // SMART critical warning
	MediaErr uint64
	Cycles   uint64 // power cycles

	// KeepsData, when set, says which chunks the drive does not erase, whatever it
	// says: no command that erases, and no write of zeroes, changes them.
	KeepsData func(nsid uint32, chunk int64, data []byte) bool

	// Hook, when set, is asked for every operation; do carries it out.
	Hook func(op *Op, do func() error) error

	mu       sync.Mutex
	state    nvme.SanitizeState
	action   uint32 // CDW10 of the most recent sanitize
	started  time.Time
	failedOp bool // a failed sanitize restricts access
}

// Op is one operation on the drive, as a hook sees it.
type Op struct {
	Kind   string        // "admin", "open", "read", "write", "zeroes", "flush", "reset"
	Cmd    *nvme.Command // of an admin command
	Result uint32        // its dword 0
	NSID   uint32
	Off, N int64  // bytes
	Data   []byte // read or to write
}

// Admin reports whether the operation is the admin command with this opcode.
func (o *Op) Admin(opcode uint8) bool { return o.Kind == "admin" && o.Cmd.Opcode == opcode }

// Log reports whether the operation reads this log page.
func (o *Op) Log(id uint32) bool { return o.Admin(nvme.OpGetLogPage) && o.Cmd.CDW10&0xFF == id }

// Identify reports whether the operation reads this structure.
func (o *Op) Identify(cns uint32) bool { return o.Admin(nvme.OpIdentify) && o.Cmd.CDW10&0xFF == cns }

// Erases reports whether the operation erases, by whatever method.
func (o *Op) Erases() bool {
	switch o.Kind {
	case "admin":
		return o.Cmd.Opcode == nvme.OpFormat || o.Cmd.Opcode == nvme.OpSanitize && o.Cmd.CDW10&7 > 1
	case "write":
		return len(bytes.Trim(o.Data, "\x00")) == 0
	}
	return o.Kind == "zeroes"
}

// Format is an LBA format.
type Format struct {
	Shift uint8 // block size is 2^Shift
	Meta  uint16
}

// Namespace is one namespace with its data.
type Namespace struct {
	Bytes       int64
	Formats     []Format
	Format      uint8
	Deallocated nvme.Deallocated
	Protection  nvme.WriteProtection
	Shared      bool
	GUID        [16]byte
	Attached    []uint16 // controllers

	drive *Drive
	id    uint32
	media map[int64][]byte // chunks that are stored
	cache map[int64][]byte // chunks written and not flushed
	epoch uint64           // rises with every erasure: what was never written reads as something else
}

// New makes a good drive with every method of erasing and one namespace.
func New(serial string, size int64) *Drive {
	d := &Drive{
		Serial: serial, Model: "Fake NVMe 4000", Firmware: "GDC5302Q", Slots: [7]string{"GDC5302Q", "GDC5202Q"}, ActiveSlot: 1,
		OACS: 1<<0 | 1<<1 | 1<<3, ONCS: 1 << 3, SANICAP: 7, FNA: 1 << 2, NWPC: 1, Controllers: []uint16{1}, Namespaces: map[uint32]*Namespace{},
		EstimateCrypto: 2, EstimateBlock: 30, EstimateOverwrite: 600, SanitizeTakes: 2 * time.Second, FormatTakes: time.Second,
		TCG: true, Locking: nvme.Locking{Supported: true}, Cycles: 7,
	}
	d.AddNamespace(1, size)
	d.Capacity = uint64(size)
	return d
}

// AddNamespace adds an empty namespace.
func (d *Drive) AddNamespace(id uint32, size int64) *Namespace {
	n := &Namespace{
		Bytes: size, Formats: []Format{{9, 0}, {12, 0}, {12, 8}}, Deallocated: nvme.ReadsZero, Attached: slices.Clone(d.Controllers[:1]),
		drive: d, id: id, media: map[int64][]byte{}, cache: map[int64][]byte{},
	}
	n.GUID[0], n.GUID[15] = 0x36, byte(id)
	d.Namespaces[id] = n
	return n
}

// Change changes the drive while it is in use.
func (d *Drive) Change(f func(d *Drive)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// Open is a new session of a host with the drive.
func (d *Drive) Open() nvme.Controller { return &session{d} }

// BeginSanitize starts a sanitize as whoever owned the admin queue could have.
func (d *Drive) BeginSanitize(a nvme.SanitizeAction) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.action, d.started = nvme.Sanitizing, a.CDW10(), time.Now()
}

// FailedSanitize leaves the drive in the failure mode of a sanitize.
func (d *Drive) FailedSanitize() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.action, d.failedOp = nvme.SanitizeHasFailed, nvme.SanitizeBlocks.CDW10(), true
}

// PowerCut takes power away for a moment: what was not flushed is lost, a sanitize
// goes on where it was.
func (d *Drive) PowerCut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Cycles++
	for _, n := range d.Namespaces {
		clear(n.cache)
	}
}

// Fill stores the secret in every chunk whose number is a multiple of step.
func (d *Drive) Fill(nsid uint32, secret string, step int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.Namespaces[nsid]
	for i := int64(0); i < n.Bytes/chunkBytes; i += step {
		n.media[i] = bytes.Repeat([]byte(secret), chunkBytes/len(secret)+1)[:chunkBytes]
	}
}

// Leaks counts the chunks anywhere on the drive that hold the secret.
func (d *Drive) Leaks(secret string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tick()
	found := 0
	for _, n := range d.Namespaces {
		for _, chunks := range []map[int64][]byte{n.media, n.cache} {
			for _, c := range chunks {
				if bytes.Contains(c, []byte(secret)) {
					found++
				}
			}
		}
	}
	return found
}

// tick finishes a sanitize whose time has come.
func (d *Drive) tick() {
	if d.state != nvme.Sanitizing || time.Since(d.started) < d.SanitizeTakes {
		return
	}
	if d.SanitizeFails {
		d.state, d.failedOp = nvme.SanitizeHasFailed, true
		return
	}
	d.state = nvme.Sanitized
	for _, n := range d.Namespaces {
		n.erase()
	}
}

// erase deallocates every block.
func (n *Namespace) erase() {
	n.flush()
	maps.DeleteFunc(n.media, func(i int64, c []byte) bool { return !n.keeps(i, c) })
	n.epoch++
}

func (n *Namespace) keeps(i int64, c []byte) bool {
	return n.drive.KeepsData != nil && n.drive.KeepsData(n.id, i, c)
}

// chunk is what chunk i reads as.
func (n *Namespace) chunk(i int64) []byte {
	if c, ok := n.cache[i]; ok {
		return c
	}
	if c, ok := n.media[i]; ok {
		return c
	}
	switch {
	case n.Deallocated == nvme.ReadsFF:
		return bytes.Repeat([]byte{0xFF}, chunkBytes)
	case n.Deallocated == nvme.ReadsZero || n.epoch == 0:
		return make([]byte, chunkBytes)
	}
	var in [16]byte // what another key makes of cells that say nothing
	binary.BigEndian.PutUint64(in[:], n.epoch)
	binary.BigEndian.PutUint64(in[8:], uint64(i))
	h := sha256.Sum256(in[:])
	return bytes.Repeat(h[:], chunkBytes/len(h))
}

// put stores bytes of one chunk.
func (n *Namespace) put(i, at int64, b []byte) {
	c := bytes.Clone(n.chunk(i))
	if len(bytes.Trim(b, "\x00")) == 0 && n.keeps(i, c) {
		return
	}
	copy(c[at:], b)
	n.cache[i] = c
}

func (n *Namespace) flush() {
	maps.Copy(n.media, n.cache)
	clear(n.cache)
}
