package metadata

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Guest is what one VM is told about itself.
type Guest struct {
	VM       string // its id, and the instance id
	Hostname string
	SSHKeys  []string // authorized_keys lines
	UserData []byte   // as the tenant gave it
	MAC      string
	Address  netip.Addr
	Subnet   netip.Prefix
}

// Options say where guests are and what is known of them. Sockets and Guest are
// required.
type Options struct {
	Sockets Sockets

	// Guest is the VM whose port on that bridge has that address; false: there is
	// none. It is asked at every request, and must not block for long.
	Guest func(ctx context.Context, bridge string, source netip.Addr) (Guest, bool)

	// Alive is told when a guest asked for a token: it is up. nil: nobody is.
	Alive func(vm string)

	Log *slog.Logger // nil: none

	now func() time.Time // for tests; nil: time.Now
}

// Sockets are the listeners' way to the network.
type Sockets interface {
	// Index is the interface's number; one of the same name made anew has another.
	Index(device string) (int, error)
	// Listen hears connections to the metadata address that come in by the device.
	Listen(device string) (net.Listener, error)
}

// The bounds. Cloud-init makes some 30 requests at a boot.
const (
	maxHeaderBytes    = 4 << 10
	maxConnsOnBridge  = 256
	maxConnsOfGuest   = 8
	requestsPerSecond = 20
	requestsAtOnce    = 100
	ioTimeout         = 5 * time.Second
	idleTimeout       = 30 * time.Second
	goodbye           = 2 * time.Second
)

// Server answers guests. See [New].
type Server struct {
	o      Options
	tokens tokens

	mu      sync.Mutex
	bridges map[string]*bridge

	rating sync.Mutex
	rates  map[string]*rate // by VM
}

// bridge is one listener and its server.
type bridge struct {
	index int
	http  *http.Server
	done  chan struct{}
}

// New makes a server that listens nowhere yet.
func New(o Options) (*Server, error) {
	if o.Sockets == nil || o.Guest == nil {
		return nil, errors.New("metadata: Sockets and Guest are required")
	}
	if o.Alive == nil {
		o.Alive = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.now == nil {
		o.now = time.Now
	}
	t, err := newTokens()
	if err != nil {
		return nil, err
	}
	return &Server{o: o, tokens: t, bridges: map[string]*bridge{}, rates: map[string]*rate{}}, nil
}

// Apply makes the server listen on these bridges and no others. It is repeated
// after every change of the network; what is as wanted is left alone.
func (s *Server) Apply(bridges []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := map[string]int{}
	var errs []error
	for _, name := range bridges {
		index, err := s.o.Sockets.Index(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("metadata: %s: %w", name, err))
			continue
		}
		want[name] = index
	}
	for name, b := range s.bridges {
		if index, ok := want[name]; !ok || index != b.index {
			errs = append(errs, b.close())
			delete(s.bridges, name)
		}
	}
	for name, index := range want {
		if s.bridges[name] == nil {
			b, err := s.listen(name, index)
			if err != nil {
				errs = append(errs, fmt.Errorf("metadata: %s: %w", name, err))
				continue
			}
			s.bridges[name] = b
		}
	}
	s.forget()
	return errors.Join(errs...)
}

// Close stops listening.
func (s *Server) Close() error { return s.Apply(nil) }

func (s *Server) listen(name string, index int) (*bridge, error) {
	l, err := s.o.Sockets.Listen(name)
	if err != nil {
		return nil, err
	}
	b := &bridge{index: index, done: make(chan struct{})}
	b.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, name) }),
		// A guest's mistakes are its own affair: they fill no log of ours.
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ReadHeaderTimeout: ioTimeout, ReadTimeout: ioTimeout, WriteTimeout: ioTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
	}
	go func() {
		defer close(b.done)
		if err := b.http.Serve(newLimited(l)); !errors.Is(err, http.ErrServerClosed) {
			s.o.Log.Warn("the metadata service ended", "bridge", name, "err", err)
		}
	}()
	return b, nil
}

// close ends the listener and lets answers that are under way go out.
func (b *bridge) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	err := b.http.Shutdown(ctx)
	if err != nil {
		err = b.http.Close()
	}
	<-b.done
	return err
}
