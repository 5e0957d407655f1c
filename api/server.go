package api

import (
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humaecho"
	"github.com/labstack/echo/v4"
)

// Server is the REST interface of a site.
type Server struct {
	o          Options
	api        huma.API
	routes     []route
	metrics    *metrics
	denials    *limiter
	enrolments *limiter
	cursors    *cursors
	streams    *streamSlots
	shares     *shares
	forward    *forwarder // nil: this process always decides
	skus       sync.Map   // domain.SKUID to its name
	stop       chan struct{}
	stopped    sync.Once
}

var replaceErrors sync.Once

// New makes the server and its handler. Close ends the event streams.
func New(o Options) (*Server, http.Handler) {
	o.defaults()
	replaceErrors.Do(func() { // huma's only hooks are global
		huma.NewErrorWithContext = problemOfHuma
		huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
			return problemOfHuma(nil, status, msg, errs...)
		}
	})
	s := &Server{
		o: o, metrics: newMetrics(o.Registry), denials: newLimiter(10, 4096), cursors: newCursors(o.Secret),
		streams: newStreamSlots(), stop: make(chan struct{}), enrolments: newLimiter(500, 4096),
	}
	connections := 1
	if o.Reads != nil {
		connections = o.Reads.Connections()
		s.o.Reads = o.Reads.InTurn(s.readTurn)
	}
	s.shares = newShares(o.Processors, connections)
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.IPExtractor = echo.ExtractIPDirect()
	e.HTTPErrorHandler = s.handleEchoError
	e.Use(s.edge)
	s.api = humaecho.New(e, s.config())
	s.api.UseMiddleware(s.authenticate)
	s.register()
	s.registerPlain(e)
	if o.Writers == nil {
		return s, e
	}
	s.forward = newForwarder(s, e, o.PeerTLS)
	return s, s.forward
}

// Close ends every event stream, so that a listener can shut down.
func (s *Server) Close() {
	s.stopped.Do(func() {
		close(s.stop)
		if s.forward != nil {
			s.forward.hop.CloseIdleConnections()
		}
	})
}

// HTTPServer is a listener's server with every bound set.
func HTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, WriteTimeout: writeTimeout, MaxHeaderBytes: maxHeaderBytes,
		// No ReadTimeout: the edge bounds the body, and a read deadline that passes
		// during a handler would cancel it. An event stream moves its write deadline
		// with every write.
	}
}

func (s *Server) config() huma.Config {
	registry := huma.NewMapRegistry("#/components/schemas/", schemaName)
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "GPUaaS", Version: s.o.Version,
				Description: "A cloud of GPUs: tenants rent slots (one GPU, one NVMe drive, one InfiniBand VF) as virtual machines. Every accepted command answers with the header Log-Sequence; give it to a read as ?at_least= to see your own write. Refusals are RFC 9457 problems with a stable code.",
			},
			Servers: []*huma.Server{{URL: "/"}},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"apiKey": {Type: "http", Scheme: "bearer", BearerFormat: "gpk_...", Description: "An API key: POST /v1/tenants/{t}/api-keys makes one and shows it once."},
				},
			},
			Tags: tags,
		},
		Formats:       map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat},
		DefaultFormat: "application/json",
	}
}

var tags = []*huma.Tag{
	{Name: "Tenants", Description: "Tenants, their members and keys"},
	{Name: "Projects", Description: "Projects and who may do what in them"},
	{Name: "Policies", Description: "Quotas, limits and defaults: global, tenant, project"},
	{Name: "Catalog", Description: "SKUs, prices, what can be launched now"},
	{Name: "Allocations", Description: "Virtual machines with GPUs"},
	{Name: "Billing", Description: "Balance, ledger, usage, credits"},
	{Name: "Fleet", Description: "Hosts and slots, for operators"},
	{Name: "Events", Description: "What happened, as pages or as a stream"},
	{Name: "Site", Description: "Operators, audit, who am I"},
}
