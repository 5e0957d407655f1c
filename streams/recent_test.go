package streams

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

func TestRecentKeepsTheNewestInOrder(t *testing.T) {
	t.Parallel()
	var r recent
	if _, _, ok := r.after(0, nil, domain.Digest{}); ok {
		t.Fatal("an empty memory holds something")
	}
	commit := make([]byte, recentBytes/4)
	last := func() []byte { return append([]byte(nil), commit...) }
	for seq := uint64(5); seq < 15; seq++ {
		copy(commit, fmt.Sprintf("commit %2d", seq))
		r.add(seq, commit)
	}
	if r.first != 11 || len(r.msgs) != 4 {
		t.Errorf("it holds %d from %d, want the newest four", len(r.msgs), r.first)
	}
	copy(commit, "commit 11")
	msgs, _, ok := r.after(11, last(), domain.Digest{})
	if !ok || len(msgs) != 3 || string(msgs[0][:9]) != "commit 12" {
		t.Errorf("after 11: %d messages, %v", len(msgs), ok)
	}
	if _, _, ok := r.after(11, nil, domain.DigestOf(last())); !ok {
		t.Error("the hash of message 11 was not recognised")
	}
	if _, _, ok := r.after(12, last(), domain.Digest{}); ok {
		t.Error("a reader of another log was served")
	}
	if _, _, ok := r.after(12, nil, domain.DigestOf(last())); ok {
		t.Error("a reader of another log was served by its hash")
	}
	if _, _, ok := r.after(10, last(), domain.Digest{}); ok {
		t.Error("what message 10 was cannot be compared any more")
	}
	copy(commit, "commit 14")
	none, grown, ok := r.after(14, last(), domain.Digest{})
	if !ok || len(none) != 0 {
		t.Errorf("after the last: %d messages, %v", len(none), ok)
	}
	r.add(15, commit)
	r.add(16, commit)
	select {
	case <-grown:
	default:
		t.Error("whoever waits is not woken")
	}
	if string(msgs[0][:9]) != "commit 12" {
		t.Error("what was handed out changed")
	}
	r.add(99, commit) // after a gap nothing older may be joined to it
	if r.first != 99 || len(r.msgs) != 1 {
		t.Error("a gap was bridged")
	}
	for seq := range uint64(recentRun) {
		r.add(100+seq, nil)
	}
	if msgs, _, ok := r.after(99, commit, domain.Digest{}); !ok || len(msgs) != recentRun {
		t.Errorf("after 99: %d messages, %v", len(msgs), ok)
	}
	r.add(100+recentRun, nil)
	if msgs, _, ok := r.after(99, commit, domain.Digest{}); !ok || len(msgs) != recentRun {
		t.Errorf("more than a run at once: %d messages, %v", len(msgs), ok)
	}
}

func TestRecentForgetsWhatIsOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r recent
		for seq := range uint64(100) {
			r.add(1+seq, []byte("commit"))
			time.Sleep(time.Second)
		}
		r.add(101, []byte("commit"))
		if want := int(recentAge/time.Second) + 1; len(r.msgs) != want || len(r.since) != want || r.first != 102-uint64(want) || r.bytes != 6*want {
			t.Errorf("it holds %d from %d, %d bytes, want the newest %d", len(r.msgs), r.first, r.bytes, want)
		}
		for seq := uint64(102); seq < 105; seq++ {
			time.Sleep(2 * recentAge)
			r.add(seq, []byte("commit"))
			if msgs, _, ok := r.after(seq-1, []byte("commit"), domain.Digest{}); !ok || len(msgs) != 1 || len(r.msgs) != 2 {
				t.Errorf("after a pause who has the last commit is given %d of %d, %v", len(msgs), len(r.msgs), ok)
			}
		}
	})
}
