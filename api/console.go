package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
)

// Console is a part of what a VM wrote to its serial console.
type Console struct {
	VMID   string `json:"vm_id"`
	Offset int64  `json:"offset" doc:"Of the next byte: give it as offset to go on"`
	Data   string `json:"data" contentEncoding:"base64" doc:"The bytes, base64"`
}

const (
	defaultConsoleBytes = 64 << 10
	maxConsoleBytes     = 512 << 10
)

func (s *Server) consoleRoutes() {
	r := route{
		path: "/v1/allocations/{a}/console", id: "read-console", tag: "Allocations", summary: "Read a VM's console",
		about: "With Accept: text/plain the bytes as they are, and the header Console-Offset.",
		query: []*param{
			queryParam("vm", "Which VM of the allocation, from 0 on.", &huma.Schema{Type: "integer", Minimum: floatOf(0), Default: 0}),
			queryParam("offset", "From which byte on; negative: so many before the end. Left out: the last 64 KiB.", &huma.Schema{Type: "integer"}),
			queryParam("limit", "At most so many bytes.", &huma.Schema{Type: "integer", Minimum: floatOf(1), Maximum: floatOf(maxConsoleBytes), Default: defaultConsoleBytes}),
		},
		method: http.MethodGet,
	}
	op := s.operation(r, false)
	op.Responses["200"].Content = map[string]*huma.MediaType{
		"application/json": {Schema: s.schema("Console", Console{})}, "text/plain": {Schema: &huma.Schema{Type: "string"}},
	}
	huma.Register(s.api, op, func(ctx context.Context, _ *noInput) (*huma.StreamResponse, error) {
		c := callOf(ctx)
		c.rest()
		out, data, err := s.console(c)
		c.work()
		if err != nil {
			return nil, c.fail(err)
		}
		return &huma.StreamResponse{Body: func(huma.Context) {
			w := c.echo.Response()
			if strings.HasPrefix(c.echo.Request().Header.Get("Accept"), "text/plain") {
				w.Header().Set("Content-Type", "text/plain; charset=utf-8")
				w.Header().Set("Console-Offset", strconv.FormatInt(out.Offset, 10))
				w.WriteHeader(http.StatusOK)
				_, _ = w.Write(data)
				return
			}
			out.Data = base64.StdEncoding.EncodeToString(data)
			_ = answerJSON(w, http.StatusOK, out)
		}}, nil
	})
	s.routes = append(s.routes, r)
}

// console reads from the VM's host. It is the tenant's: the site's people, who
// administer every tenant, do not see it.
func (s *Server) console(c *call) (*Console, []byte, *domain.Error) {
	var alloc domain.AllocationID
	if err := pathID(c, "a", "allocation", &alloc); err != nil {
		return nil, nil, err
	}
	index, err := intParam(c, "vm", 0, 0, 1<<16)
	if err != nil {
		return nil, nil, err
	}
	offset, err := intParam(c, "offset", -defaultConsoleBytes, -1<<40, 1<<40)
	if err != nil {
		return nil, nil, err
	}
	limit, err := intParam(c, "limit", defaultConsoleBytes, 1, maxConsoleBytes)
	if err != nil {
		return nil, nil, err
	}
	var vm domain.VMID
	var host domain.HostID
	err = c.query(func(w *domain.World, at domain.Time) *domain.Error {
		project, _, ok := w.ProjectOf(alloc)
		if !ok {
			return notFound("allocation")
		}
		if err := w.MayRead(c.actor(), at, domain.TenantID{}, project); err != nil {
			if err.Kind == domain.Unauthenticated {
				return err
			}
			return notFound("allocation")
		}
		if c.platform() {
			return domain.Errorf(domain.Forbidden, "console.tenant_only", "a console is its tenant's alone")
		}
		if c.caller.Member.Role == domain.TenantBilling { // sees what there is and what it costs, not what is in it
			if err := w.MayAct(c.actor(), at, project); err != nil {
				return err
			}
		}
		if vm, ok = w.VMOf(alloc, int(index)); !ok {
			return notFound("vm")
		}
		host, _, _, _ = w.VMPlaceOf(vm)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	data, next, rerr := s.o.Consoles.Read(c.ctx(), host, vm, offset, int(limit))
	if rerr != nil {
		e := domain.Errorf(domain.Unavailable, "console.unavailable", "the host does not answer now: try again")
		e.Cause = rerr
		return nil, nil, e
	}
	return &Console{VMID: vm.String(), Offset: next}, data, nil
}
