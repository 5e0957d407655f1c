package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

// openNATS starts the embedded server, or uses the cluster it is told of.
func (s *site) openNATS(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.cfg.NATSURL != "" {
		s.natsURL = s.cfg.NATSURL
		s.dial = func(r server.Role) streams.Dial {
			return streams.DialCreds(s.natsURL, filepath.Join(s.cfg.NATSCreds, string(r)+".creds"))
		}
		trust, err := server.OpenTrust(s.cfg.NATSCreds, s.cfg.Site)
		if err != nil {
			return err
		}
		s.trust = trust
	} else {
		host, port, err := net.SplitHostPort(s.cfg.NATSListen)
		if err != nil {
			return fmt.Errorf("nats-listen: %w", err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return fmt.Errorf("nats-listen: %w", err)
		}
		s.nats, err = server.Start(ctx, server.Options{Dir: filepath.Join(s.cfg.DataDir, "nats"), Site: s.cfg.Site, Host: host, Port: n, Log: s.log.With("part", "nats")})
		if err != nil {
			return fmt.Errorf("embedded NATS: %w", err)
		}
		s.closers = append(s.closers, s.nats.Shutdown)
		s.natsURL, s.trust, s.dial = s.nats.ClientURL(), s.nats.Trust(), s.nats.Dial
	}
	admin, err := s.dial(server.Admin)(nats.Name("setup"))
	if err != nil {
		return fmt.Errorf("NATS at %s: %w", s.natsURL, err)
	}
	defer admin.Close()
	drifts, err := streams.Setup(ctx, admin, s.streamConfig())
	if err != nil {
		return err
	}
	if err := refuseDrift(drifts); err != nil {
		return err
	}
	return nil
}

func (s *site) streamConfig() streams.Config {
	return streams.Config{Site: s.names, Replicas: s.cfg.Replicas}
}

// refuseDrift names every difference: a site does not start on a stream that is not
// what it should be.
func refuseDrift(drifts []streams.Drift) error {
	var errs []error
	for _, d := range drifts {
		errs = append(errs, errors.New(d.String()))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("the streams are not configured as they must be; repair them with the nats tool and start again: %w", errors.Join(errs...))
}
