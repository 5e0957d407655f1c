package domain

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// The bounds of the log. A decision that would break one is refused; the loop
// closes a commit before it would.
const (
	MaxCommitBytes     = 512 << 10
	MaxCommitDecisions = 256
	MaxDecisionBytes   = 64 << 10
	MaxDecisionEvents  = 256
)

// Commit is one message of the log: decisions made durable together.
type Commit struct {
	N         uint64     `json:"n"`    // 1, 2, 3, ...: the commit's own number, never the stream's
	At        Time       `json:"at"`   // max(previous, wall clock) of the writer when the group opened
	Prev      Digest     `json:"prev"` // SHA-256 of the previous commit's bytes; zero before the first
	Decisions []Decision `json:"decisions"`
}

// Decision is a command and what followed from it.
type Decision struct {
	Command Command `json:"command"`
	Events  []Event `json:"events"`
}

// Event is one fact with its number: 1, 2, 3, ... over the whole log, equal to
// the sequence of its message in the feed.
type Event struct {
	Number uint64
	Body   EventBody
}

// Head names a place in the log: everything downstream carries it, so that a
// lost or forked tail is noticed. The zero Head is the empty log.
type Head struct {
	N    uint64 `json:"n"`
	Hash Digest `json:"hash"` // SHA-256 of commit N's bytes
}

// commitHeaderBytes is the fixed-width front of a commit: n, at and prev. It
// comes first so that decisions can be encoded before the previous hash is known.
const commitHeaderBytes = 9 + 9 + 2 + 32

// appendCommitHeader writes n, at, prev. Unlike everywhere else in the wire
// format zero values are written, so that the width never changes.
func appendCommitHeader(b []byte, n uint64, at Time, prev Digest) []byte {
	b = protowire.AppendTag(b, 1, protowire.Fixed64Type)
	b = binary.LittleEndian.AppendUint64(b, n)
	b = protowire.AppendTag(b, 2, protowire.Fixed64Type)
	b = binary.LittleEndian.AppendUint64(b, uint64(at))
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	return protowire.AppendBytes(b, prev[:])
}

// DecodeCommitHeader reads only the front of a commit, and returns the encoded
// decisions.
func DecodeCommitHeader(b []byte) (c Commit, decisions []byte, err error) {
	if len(b) < commitHeaderBytes || b[0] != 1<<3|1 || b[9] != 2<<3|1 || b[18] != 3<<3|2 || b[19] != 32 {
		return c, nil, fmt.Errorf("not a commit: %d bytes without a commit's header", len(b))
	}
	c.N = binary.LittleEndian.Uint64(b[1:])
	c.At = Time(binary.LittleEndian.Uint64(b[10:]))
	copy(c.Prev[:], b[20:])
	return c, b[commitHeaderBytes:], nil
}

// EncodeCommit is the bytes of c, and the only form of it that is ever stored.
func EncodeCommit(c *Commit) []byte {
	b := appendCommitHeader(nil, c.N, c.At, c.Prev)
	for i := range c.Decisions {
		b = AppendDecision(b, &c.Decisions[i])
	}
	return b
}

// AppendDecision appends d as an element of a commit.
func AppendDecision(b []byte, d *Decision) []byte {
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	c := coder{enc: true, b: b}
	at := len(c.b)
	d.wire(&c)
	c.insertLength(at, len(c.b)-at)
	return c.b
}

// SealCommit writes the header into b, whose first bytes were kept free by
// NewCommitBuffer, and returns the finished bytes.
func SealCommit(b []byte, n uint64, at Time, prev Digest) []byte {
	appendCommitHeader(b[:0], n, at, prev)
	return b
}

// NewCommitBuffer returns a buffer with room kept free for the header.
func NewCommitBuffer(b []byte) []byte { return append(b[:0], make([]byte, commitHeaderBytes)...) }

// Documents are those of the vault that the commit names: each was durable there before.
func (c *Commit) Documents() (out []Digest) {
	for i := range c.Decisions {
		for _, e := range c.Decisions[i].Events {
			if b, ok := e.Body.(*AllocationPlaced); ok && !b.UserData.IsZero() {
				out = append(out, b.UserData)
			}
		}
	}
	return out
}

// DecodeCommit reads a whole commit. The result shares memory with b.
func DecodeCommit(b []byte) (*Commit, error) { return decodeNewCommit(b, false) }

// DecodeCommitEvents is DecodeCommit without the commands' bodies: what a fold
// needs, at less cost.
func DecodeCommitEvents(b []byte) (*Commit, error) { return decodeNewCommit(b, true) }

func decodeNewCommit(b []byte, skipCommands bool) (*Commit, error) {
	c := new(Commit)
	if err := decodeCommit(b, c, skipCommands, nil); err != nil {
		return nil, err
	}
	return c, nil
}

// decodeCommit reads a commit into c. What room c has for decisions is used, and where
// there is memory for the rest, that is.
func decodeCommit(b []byte, c *Commit, skipCommands bool, mem *Buffer) error {
	head, rest, err := DecodeCommitHeader(b)
	if err != nil {
		return err
	}
	in := reading(rest, false)
	in.mem = mem
	decisions := c.Decisions[:0]
	if decisions == nil {
		decisions = make([]Decision, 0, in.repeats())
	}
	for in.at(4, protowire.BytesType) {
		decisions = append(decisions, Decision{Command: Command{skipBody: skipCommands}})
		in.consumeSub(&decisions[len(decisions)-1])
	}
	*c = head
	c.Decisions = decisions
	if err := in.finish(); err != nil {
		return fmt.Errorf("commit %d: %w", c.N, err)
	}
	return nil
}

func (d *Decision) wire(c *coder) {
	c.sub(1, &d.Command)
	if !c.enc && c.mem == nil {
		d.Events = make([]Event, 0, 3) // most decisions have no more
	}
	if !c.enc && c.err == nil && d.Command.Body == nil && !d.Command.skipBody {
		c.fail("a decision without a command")
	}
	msgs(c, 2, &d.Events)
}
