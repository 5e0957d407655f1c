package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/gpuaas/gpuaas/api"
	"github.com/gpuaas/gpuaas/commands"
)

// front is the API's listener. It answers from the first moment on: while the site
// opens and folds its log, that it starts.
type front struct {
	listener net.Listener
	cert     *certificate // nil: plain HTTP
	reg      *prometheus.Registry
	srv      *http.Server
	handler  atomic.Pointer[http.Handler] // the API's, once there is one
	fold     atomic.Pointer[commands.FoldProgress]
	serving  chan struct{} // closed once the handler is the API's
	errs     chan error
}

func openFront(address string, cert *certificate, maxConnections int, log *slog.Logger) (*front, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	l = api.LimitConnections(l, maxConnections)
	f := &front{listener: l, cert: cert, reg: prometheus.NewRegistry(), serving: make(chan struct{}), errs: make(chan error, 1)}
	f.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	starting := api.Starting(f.reg, f.why)
	f.srv = api.HTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := f.handler.Load(); h != nil {
			(*h).ServeHTTP(w, r)
			return
		}
		starting.ServeHTTP(w, r)
	}))
	f.srv.ErrorLog = slog.NewLogLogger(log.With("part", "api").Handler(), slog.LevelDebug) // handshakes of strangers
	if cert != nil {
		f.srv.TLSConfig = cert.config()
		go func() { f.errs <- f.srv.ServeTLS(l, "", "") }()
		return f, nil
	}
	go func() { f.errs <- f.srv.Serve(l) }()
	return f, nil
}

// why is what the start does now.
func (f *front) why() string {
	if fold := f.fold.Load(); fold != nil {
		at, end := fold.Position()
		return fmt.Sprintf("the log is being folded, commit %d of %d", at, end)
	}
	return "its streams and its database are being opened"
}

// serve answers with the API until ctx ends, and then what is under way.
func (f *front) serve(ctx context.Context, h http.Handler, closeStreams func()) error {
	f.handler.Store(&h)
	close(f.serving)
	select {
	case err := <-f.errs:
		return err
	case <-ctx.Done():
	}
	closeStreams() // requests under way are answered
	stop, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := f.srv.Shutdown(stop); err != nil {
		_ = f.srv.Close()
	}
	if err := <-f.errs; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// close ends what is still served.
func (f *front) close() { _ = f.srv.Close() }

// url is where the API is.
func (f *front) url() string {
	if f.cert != nil {
		return "https://" + f.listener.Addr().String()
	}
	return "http://" + f.listener.Addr().String()
}
