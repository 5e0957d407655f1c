package projections

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gpuaas/gpuaas/domain"
)

// Every event type of the domain has its line in project.
func TestEveryEventIsProjected(t *testing.T) {
	t.Parallel()
	for _, typ := range domain.EventTypes() {
		body := emptyEvent(t, typ)
		b := newBatch(newCache())
		b.project(&at{At: 1, N: 1, Number: 1}, body)
		if b.err != nil && strings.Contains(b.err.Error(), "does not project") {
			t.Errorf("%s is not in events.go", typ)
		}
	}
}

// emptyEvent decodes an event of the type with no field set.
func emptyEvent(t *testing.T, typ string) domain.EventBody {
	t.Helper()
	field := func(b []byte, n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
	}
	command := field(field(nil, 6, []byte("tick")), 7, nil)
	event := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	event = field(event, 2, []byte(typ))
	event = protowire.AppendVarint(protowire.AppendTag(event, 3, protowire.VarintType), 1)
	event = field(event, 4, nil)
	decision := field(field(nil, 1, command), 2, event)
	c, err := domain.DecodeCommit(domain.SealCommit(field(domain.NewCommitBuffer(nil), 4, decision), 1, 1, domain.Digest{}))
	if err != nil {
		t.Fatalf("%s: %v", typ, err)
	}
	return c.Decisions[0].Events[0].Body
}
