package commands_test

import (
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// That it is so already may follow from the group that is still open: the answer names the
// commit that this becomes. Who asks for what that commit holds would else read too early.
func TestAlreadySoNamesTheCommitThatHoldsIt(t *testing.T) {
	t.Parallel()
	core, now := commands.NewCore(domain.NewWorld()), domain.TimeOf(time.Now())
	decide := func(body domain.CommandBody) commands.Reply {
		t.Helper()
		r := core.Decide(now, command(domain.System, body))
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return r
	}
	decide(&domain.StartWriter{Site: "test1", LogicLevel: domain.LogicLevel})
	core.Close()
	m := &domain.SetOperator{User: domain.UserID{1}, Roles: domain.RoleOperator}
	done := decide(m)
	if again := decide(m); len(done.Events) == 0 || len(again.Events) != 0 || again.N != done.N || again.At != done.At {
		t.Errorf("while commit %d is open: %+v", done.N, again)
	}
	if head := core.Close().Head.N; head != done.N {
		t.Fatalf("commit %d is the %d", done.N, head)
	}
	if again := decide(m); len(again.Events) != 0 || again.N != done.N || !core.Empty() {
		t.Errorf("after commit %d: %+v", done.N, again)
	}
}
