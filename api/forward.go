package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuaas/gpuaas/domain"
)

// Of the processes of a site one decides. The others answer reads, and hand what
// changes something to it: the request as it came, with its key, one hop at most.

// Writers knows which process decides.
type Writers interface {
	// Decide reports whether this process decides. Then it goes on doing so until
	// done is called.
	Decide() (done func(), ok bool)
	// Elsewhere is where another process that decides serves its API; nil if none is
	// known.
	Elsewhere() *url.URL
}

const (
	// hopHeader marks a request that was handed on once.
	hopHeader = "Gpuaas-Forwarded"
	// forwardPatience is how long a request waits for a process that decides: a little
	// longer than a failover takes.
	forwardPatience = 4 * time.Second
	// forwardPause is the pause between two looks for one.
	forwardPause = 5 * time.Millisecond
	// forwardLook is how often it is looked whether the process that is asked still decides.
	forwardLook = 50 * time.Millisecond
	// sayEvery is the pause between two words in the log about it, in seconds.
	sayEvery = 10
	// maxForwards bounds the requests that are handed on at once.
	maxForwards = 2048
)

// forwarder stands before the routes of a server.
type forwarder struct {
	s     *Server
	next  http.Handler
	hop   *http.Transport
	slots chan struct{}
	count *prometheus.CounterVec
	// patience is how long a request waits for a process that decides.
	patience time.Duration
	// said is when the log last had why the writer cannot be reached, in seconds.
	said atomic.Int64
}

func newForwarder(s *Server, next http.Handler, peers *tls.Config) *forwarder {
	f := &forwarder{s: s, next: next, patience: forwardPatience, slots: make(chan struct{}, maxForwards), hop: &http.Transport{
		DialContext:     (&net.Dialer{Timeout: time.Second}).DialContext,
		TLSClientConfig: peers, TLSHandshakeTimeout: 2 * time.Second, DisableCompression: true,
		MaxIdleConnsPerHost: 64, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
	}, count: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gpuaas_http_forwarded_total", Help: "Requests that another process was asked to decide, by what came of it."}, []string{"outcome"})}
	for _, outcome := range []string{"answered", "own", "none", "unknown", "hop", "full", "body"} {
		f.count.WithLabelValues(outcome)
	}
	f.count = register(s.o.Registry, f.count)
	return f
}

// decides reports whether a request is for the process that decides: it changes
// something, or asks about an upload, whose bytes are there.
func decides(r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, "/v1/") {
		return false
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return strings.HasPrefix(r.URL.Path, "/v1/uploads/")
	}
	return true
}

// ServeHTTP implements http.Handler.
func (f *forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !decides(r) {
		f.next.ServeHTTP(w, r)
		return
	}
	if done, ok := f.s.o.Writers.Decide(); ok {
		defer done()
		f.next.ServeHTTP(w, r)
		return
	}
	id := requestID(r.Header.Get("X-Request-Id"), f.s.o.Clock())
	r.Header.Set("X-Request-Id", id)
	if r.Header.Get(hopHeader) != "" {
		f.refuse(w, r, "hop", errNotWriter())
		return
	}
	key, _ := f.s.laneOf(r, domain.TimeOf(f.s.o.Clock()))
	l, derr := f.s.enter(w, r, key)
	if derr != nil {
		f.refuse(w, r, "full", derr)
		return
	}
	defer f.s.shares.leave(l)
	var body []byte // read first: who sends slowly holds no slot
	if rawBody(r) {
		boundRaw(w, f.s.o.Deadline)
	} else {
		var err *domain.Error
		if body, err = wholeBody(w, r); err != nil {
			f.refuse(w, r, "body", err)
			return
		}
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		f.refuse(w, r, "full", errNotWriter())
		return
	}
	f.handOn(w, r, body)
}

// handOn looks for a process that decides, and asks it, until one has answered: as
// often as the request surely was not decided, or says itself that a repeat does no
// harm.
func (f *forwarder) handOn(w http.ResponseWriter, r *http.Request, body []byte) {
	tick := time.NewTicker(forwardPause)
	defer tick.Stop()
	last := errNotWriter()
	for deadline := time.Now().Add(f.patience); time.Now().Before(deadline); {
		if done, ok := f.s.o.Writers.Decide(); ok { // this process, by now
			defer done()
			if !rawBody(r) {
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			f.count.WithLabelValues("own").Inc()
			f.next.ServeHTTP(w, r)
			return
		}
		if to := f.s.o.Writers.Elsewhere(); to != nil {
			asking, stop := context.WithCancel(r.Context())
			answered := func() bool { return true }
			if !rawBody(r) { // of which nothing is left to be sent again
				answered = f.giveUpOn(to, stop)
			}
			res, err := f.ask(r.WithContext(asking), to, body)
			if !answered() {
				if err == nil { // its end may be cut off
					res.Body.Close()
					err = context.Canceled
				}
				deadline = time.Now().Add(f.patience) // for the process that decides now
			}
			if err == nil {
				f.count.WithLabelValues("answered").Inc()
				pass(w, res)
				stop()
				return
			}
			stop()
			switch {
			case r.Context().Err() != nil:
				panic(http.ErrAbortHandler) // nobody listens any more
			case !notSent(err) && !repeatable(r):
				f.refuse(w, r, "unknown", errOutcomeUnknown())
				return
			case !notSent(err):
				last = errOutcomeUnknown()
			case errors.Is(err, errUnreached):
				f.say(to, err)
				if bad := new(tls.CertificateVerificationError); errors.As(err, &bad) { // and will not be
					f.refuse(w, r, "none", errNotWriter())
					return
				}
			}
			if rawBody(r) {
				break // what was read of it is gone
			}
		}
		select {
		case <-tick.C:
		case <-f.s.stop: // this process ends
			f.refuse(w, r, "none", last)
			return
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	f.refuse(w, r, "none", last)
}

// giveUpOn calls stop once another process decides than the one that is asked, which
// may stand still for good with the request. It ends with the call of answered, which is
// false if stop was called, and after which it is not.
func (f *forwarder) giveUpOn(asked *url.URL, stop func()) (answered func() bool) {
	over := make(chan struct{})
	var settled atomic.Bool
	go func() {
		tick := time.NewTicker(forwardLook)
		defer tick.Stop()
		for { // ends with the answer, or another writer
			select {
			case <-over:
				return
			case <-tick.C:
			}
			done, own := f.s.o.Writers.Decide()
			if own {
				done()
			}
			if now := f.s.o.Writers.Elsewhere(); own || now != nil && *now != *asked {
				if settled.CompareAndSwap(false, true) {
					stop()
				}
				return
			}
		}
	}()
	return func() bool { close(over); return settled.CompareAndSwap(false, true) }
}

// A request surely was not decided by a process that says so, or that was not reached.
var (
	errUndecided = errors.New("not decided there")
	errUnreached = errors.New("not reached")
)

// ask hands the request to one process.
func (f *forwarder) ask(r *http.Request, to *url.URL, body []byte) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.Host, out.RequestURI = to.Scheme, to.Host, to.Host, ""
	for _, name := range []string{"Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Connection", "Expect"} {
		out.Header.Del(name)
	}
	out.Header.Set(hopHeader, "1")
	if !rawBody(r) {
		out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		out.TransferEncoding = nil
		if len(body) == 0 {
			out.Body = http.NoBody
		}
	}
	var reached atomic.Bool
	out = out.WithContext(httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { reached.Store(true) }}))
	res, err := f.hop.RoundTrip(out)
	if err != nil && !reached.Load() {
		return nil, fmt.Errorf("%w: %w", errUnreached, err)
	}
	if err != nil || res.StatusCode != http.StatusServiceUnavailable {
		return res, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	var p Problem
	if json.Unmarshal(b, &p) == nil && (p.Code == "not_writer" || p.Code == "site.stopping" || p.Code == "site.starting") {
		return nil, errUndecided
	}
	res.Body = io.NopCloser(bytes.NewReader(b))
	return res, nil
}

// notSent reports whether the request surely was not decided.
func notSent(err error) bool { return errors.Is(err, errUndecided) || errors.Is(err, errUnreached) }

// say has the log say, at times, why the writer cannot be reached: a certificate that
// this process does not believe stays so.
func (f *forwarder) say(to *url.URL, err error) {
	now, before := f.s.o.Clock().Unix(), f.said.Load()
	if now-before >= sayEvery && f.said.CompareAndSwap(before, now) {
		f.s.o.Slog.Warn("the process that decides cannot be reached", "at", to.Host, "err", err)
	}
}

// repeatable reports whether the site knows a repeat of the request.
func repeatable(r *http.Request) bool {
	return r.Header.Get("Idempotency-Key") != "" || r.Header.Get("Command-Id") != "" || r.Method == http.MethodGet || r.Method == http.MethodHead
}

// pass hands an answer back.
func pass(w http.ResponseWriter, res *http.Response) {
	defer res.Body.Close()
	for name, values := range res.Header {
		if name != "Connection" && name != "Keep-Alive" && name != "Date" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, res.Body)
}

func errNotWriter() *domain.Error {
	return domain.Errorf(domain.Unavailable, "not_writer", "no process of the site decides now: try again")
}

func errOutcomeUnknown() *domain.Error {
	return domain.Errorf(domain.Unavailable, "outcome.unknown", "the outcome is not known: repeat the request with the same Idempotency-Key")
}

func (f *forwarder) refuse(w http.ResponseWriter, r *http.Request, outcome string, err *domain.Error) {
	f.count.WithLabelValues(outcome).Inc()
	p := problemOf(err, r.Header.Get("X-Request-Id"))
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.Header().Set("X-Request-Id", p.RequestID)
	w.WriteHeader(p.Status)
	_ = writeJSON(w, p)
}
