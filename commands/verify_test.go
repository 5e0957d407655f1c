package commands_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// written is the log of a small site: a tenant, a host, a launch, its release.
func written(t *testing.T) [][]byte {
	t.Helper()
	core, now := commands.NewCore(domain.NewWorld()), domain.TimeOf(time.Now())
	var log [][]byte
	flush := func() {
		if closed := core.Close(); closed.Commit != nil {
			log = append(log, bytes.Clone(closed.Commit))
		}
	}
	n := 0
	submit := func(a domain.Actor, body domain.CommandBody) []domain.EventBody {
		c := command(a, body)
		c.Entropy = domain.Entropy(domain.DigestOf(c.ID[:]))
		now = now.Add(domain.Second)
		r := core.Decide(now, c)
		if r.Err != nil {
			t.Fatalf("%s: %v", body.CommandType(), r.Err)
		}
		if n++; n%3 != 0 { // some commits hold two decisions
			flush()
		}
		return r.Events
	}
	submit(domain.System, &domain.StartWriter{Site: "site1", LogicLevel: 1})
	admin := domaintest.Admin(submit, "admin")
	domaintest.SKUs(submit, admin, 2_490_000)
	te := domaintest.NewTenant(submit, admin, "acme", "secret", 100_000_000)
	domaintest.NewHost(submit, admin, "h1", "r1", 2)
	placed := submit(te.Key, &domain.CreateAllocation{Project: te.Project, SKUName: "gpu-1x", Count: 1})
	submit(te.Key, &domain.ActOnAllocation{Allocation: placed[0].(*domain.AllocationPlaced).ID, Action: domain.ActionRelease})
	flush()
	return log
}

// resealed numbers and chains commits again, as somebody would who wants to hide
// what was changed.
func resealed(t *testing.T, log [][]byte) [][]byte {
	t.Helper()
	var out [][]byte
	var prev domain.Digest
	for i, b := range log {
		c := decoded(t, b)
		c.N, c.Prev = uint64(i+1), prev
		out = append(out, domain.EncodeCommit(c))
		prev = sha256.Sum256(out[i])
	}
	return out
}

func decoded(t *testing.T, b []byte) *domain.Commit {
	t.Helper()
	c, err := domain.DecodeCommit(bytes.Clone(b))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// changed gives f every decision until it reports that it changed one.
func changed(t *testing.T, log [][]byte, f func(*domain.Decision) bool) [][]byte {
	t.Helper()
	for i, b := range log {
		c := decoded(t, b)
		for k := range c.Decisions {
			if f(&c.Decisions[k]) {
				log[i] = domain.EncodeCommit(c)
				return log
			}
		}
	}
	t.Fatal("nothing was changed")
	return nil
}

// of finds an event of a type.
func of[E domain.EventBody](d *domain.Decision) (e E, ok bool) {
	for i := range d.Events {
		if e, ok = d.Events[i].Body.(E); ok {
			return e, true
		}
	}
	return e, false
}

func moreCredit(d *domain.Decision) bool {
	e, ok := of[*domain.CreditGranted](d)
	if ok {
		e.Amount++
	}
	return ok
}

// TestVerifyFindsTampering changes a log in every way, with the chain left broken
// or mended: only the log as it was written passes.
func TestVerifyFindsTampering(t *testing.T) {
	t.Parallel()
	log := written(t)
	verify := func(commits [][]byte) (commands.Verified, error) {
		return commands.Verify(t.Context(), &memoryLog{commits: commits})
	}
	v, err := verify(log)
	if err != nil || v.Head.N != uint64(len(log)) || v.Decisions <= v.Head.N || v.Events <= v.Decisions {
		t.Fatalf("the log as it was written: %+v %v", v, err)
	}
	if again := resealed(t, log); !slices.EqualFunc(again, log, bytes.Equal) {
		t.Fatal("sealing again what was not changed changes it")
	}
	mid := len(log) / 2
	for _, c := range []struct {
		name   string
		tamper func([][]byte) [][]byte
		broken string // the message while the chain is left as it is
		mended string // and when it was mended
	}{
		{"changed event", func(l [][]byte) [][]byte { return changed(t, l, moreCredit) }, "leads to 2 other events", "leads to 2 other events"},
		{"changed command", func(l [][]byte) [][]byte {
			return changed(t, l, func(d *domain.Decision) bool {
				m, ok := d.Command.Body.(*domain.GrantCredit)
				if ok {
					m.Amount++
				}
				return ok
			})
		}, "leads to 2 other events", "leads to 2 other events"},
		{"changed actor", func(l [][]byte) [][]byte {
			return changed(t, l, func(d *domain.Decision) bool {
				_, ok := d.Command.Body.(*domain.CreateTenant)
				d.Command.Actor = domain.Actor{Kind: domain.ActorKey, Key: domain.APIKeyID{9}}
				return ok
			})
		}, "is refused now", "is refused now"},
		{"changed event number", func(l [][]byte) [][]byte {
			return changed(t, l, func(d *domain.Decision) bool { d.Events[0].Number++; return true })
		}, "leads to", "leads to"},
		{"dropped event", func(l [][]byte) [][]byte {
			return changed(t, l, func(d *domain.Decision) bool {
				if len(d.Events) < 2 {
					return false
				}
				d.Events = d.Events[:1]
				return true
			})
		}, "leads to", "leads to"},
		{"dropped commit", func(l [][]byte) [][]byte { return slices.Delete(l, mid, mid+1) }, "the chain is broken", "commit "},
		{"dropped first commit", func(l [][]byte) [][]byte { return l[1:] }, "the chain is broken", "commit "},
		{"repeated commit", func(l [][]byte) [][]byte { return slices.Insert(l, mid, l[mid-1]) }, "the chain is broken", "commit "},
		{"reordered commits", func(l [][]byte) [][]byte { l[mid], l[mid+1] = l[mid+1], l[mid]; return l }, "the chain is broken", "commit "},
	} {
		t.Run(c.name, func(t *testing.T) {
			broken := c.tamper(slices.Clone(log))
			if _, err := verify(broken); err == nil || !strings.Contains(err.Error(), c.broken) {
				t.Errorf("chain left: %v, want %q", err, c.broken)
			}
			if _, err := verify(resealed(t, broken)); err == nil || !strings.Contains(err.Error(), c.mended) {
				t.Errorf("chain mended: %v, want %q", err, c.mended)
			}
		})
	}
}

// TestVerifyFindsFlippedBytes: whatever byte of a commit changes, the one after
// it knows.
func TestVerifyFindsFlippedBytes(t *testing.T) {
	t.Parallel()
	log := written(t)
	for _, n := range []int{0, len(log) / 2, len(log) - 2} {
		for i := 0; i < len(log[n]); i += 1 + len(log[n])/200 {
			b := bytes.Clone(log[n])
			b[i] ^= 1
			l := slices.Clone(log)
			l[n] = b
			if _, err := commands.Verify(t.Context(), &memoryLog{commits: l}); err == nil {
				t.Errorf("commit %d, byte %d of %d: not found", n+1, i, len(b))
			}
		}
	}
	// The last commit has nobody after it: the head says what it was.
	whole, err := commands.Verify(t.Context(), &memoryLog{commits: log})
	if err != nil {
		t.Fatal(err)
	}
	short, err := commands.Verify(t.Context(), &memoryLog{commits: log[:len(log)-1]})
	if err != nil || short.Head == whole.Head || short.State == whole.State {
		t.Errorf("a log without its last commit: %+v %v", short, err)
	}
}
