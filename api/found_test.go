package api

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// TestNotThereYetIsNotNotThere: what was just made is found while the read models are behind,
// and so is what hangs on it; what is really not there, or not the caller's, is not.
func TestNotThereYetIsNotNotThere(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.server.o.Patience = time.Minute
	var behind atomic.Bool
	made := func(method, path, body string) (id string, catchUp func()) {
		w.want(200, w.acme.owner, "GET", "/v1/allocations/"+w.alloc+"?at_least="+fmt.Sprint(w.log.last()), "")
		release := w.log.fallBehind()
		t.Cleanup(release)
		behind.Store(true)
		return w.want(201, w.acme.owner, method, path, body).get("id"), func() { behind.Store(false); release() }
	}
	launch := func() (string, func()) {
		return made("POST", "/v1/projects/"+w.acme.project+"/allocations", `{"sku":"gpu-1x","image":"tiny"}`)
	}
	for _, c := range []struct {
		name, key string
		make      func() (string, func())
		path      string
		status    int
	}{
		{"an allocation", w.acme.owner, launch, "/v1/allocations/%s", 200},
		{"its events", w.acme.owner, launch, "/v1/allocations/%s/events", 200},
		{"somebody else's", w.other.owner, launch, "/v1/allocations/%s", 404},
		{"none", w.acme.owner, launch, "/v1/allocations/" + domain.AllocationID{9}.String() + "?of=%s", 404},
		{"what hangs on it", w.acme.owner, func() (string, func()) { return made("POST", "/v1/tenants/"+w.acme.id+"/projects", `{"name":"new"}`) }, "/v1/projects/%s/allocations", 200},
	} {
		id, catchUp := c.make()
		time.AfterFunc(100*time.Millisecond, catchUp)
		if w.want(c.status, c.key, "GET", fmt.Sprintf(c.path, id), ""); behind.Load() {
			t.Errorf("%s: %d was said by read models that are behind", c.name, c.status)
		}
	}

	id, catchUp := launch()
	defer catchUp()
	w.server.o.Patience = 50 * time.Millisecond
	w.refused(503, "read_model.behind", w.acme.owner, "GET", "/v1/allocations/"+id, "")
	w.refused(503, "read_model.behind", w.acme.owner, "DELETE", "/v1/allocations/"+domain.AllocationID{9}.String(), "")
}
