package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

const (
	// handOverPatience bounds the wait for commands under way, and then for a successor.
	handOverPatience = 5 * time.Second
	successorWait    = 2 * time.Second
)

// become makes this process a standby of its site.
func (s *site) become(world *domain.World) error {
	name, err := processName(s.cfg.DataDir)
	if err != nil {
		return err
	}
	me := streams.Holder{Name: name, URL: s.advertised()}
	ttl := time.Duration(s.cfg.ClaimMS) * time.Millisecond
	if s.claim, err = streams.OpenClaim(streams.ClaimOptions{Dial: s.dial(server.Runtime), Site: s.names, Me: me, TTL: ttl, Gone: s.peers.gone}); err != nil {
		return err
	}
	s.closers = append(s.closers, s.claim.Close)
	standby, err := s.newStandby(world)
	if err != nil {
		return err
	}
	s.member = newMember(name, standby, s.claim.Holder)
	return nil
}

func (s *site) newStandby(world *domain.World) (*commands.Standby, error) {
	return commands.NewStandby(world, commands.StandbyOptions{Clock: s.clock, Snapshot: s.snaps.Offer, SnapshotEvery: s.cfg.Snapshot})
}

// advertised is where the other processes of the site reach this one; "" if they
// cannot.
func (s *site) advertised() string {
	if s.cfg.AdvertiseURL != "" {
		return s.cfg.AdvertiseURL
	}
	host, _, err := net.SplitHostPort(s.front.listener.Addr().String())
	if ip, perr := netip.ParseAddr(host); err == nil && perr == nil && ip.IsUnspecified() {
		if s.cfg.NATSURL != "" {
			s.log.Warn("other processes of this site cannot hand commands to this one: give --advertise-url", "listen", s.cfg.Listen)
		}
		return ""
	}
	return s.front.url()
}

// turn is this process's time as a standby, as the writer, and on its way out. It
// ends with ctx; what fails on the way ends ctx with its cause.
func (s *site) turn(ctx context.Context, fail func(error), part partFunc, ready func(context.Context) error) error {
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	deciding, stopDeciding := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDeciding()
	var parts sync.WaitGroup
	defer s.release()
	defer parts.Wait()
	defer stopWriting()
	writerPart := func(name string, f func(context.Context) error) {
		parts.Go(func() {
			if err := f(writing); err != nil && writing.Err() == nil {
				fail(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	world, err := s.await(ctx, part, writerPart, ready)
	if err != nil || world == nil {
		return err
	}
	if err := s.newLoop(world); err != nil {
		return err
	}
	if err := s.images.TakeUp(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.loop.Run(deciding); err != nil {
			fail(fmt.Errorf("decision loop: %w", err))
		}
	}()
	s.member.promote(s.loop)
	s.startWriterParts(writerPart)
	if err = s.whenStarted(ctx, writerPart, ready); err == nil {
		<-ctx.Done()
	}
	s.stopChildren()
	s.handOver(ctx, func() {
		stopWriting()
		stopDeciding()
		<-ended
	}, part)
	return err
}

// await is the time as a standby: it returns the world to write on with, or nil when
// ctx ended.
func (s *site) await(ctx context.Context, part, writerPart partFunc, ready func(context.Context) error) (*domain.World, error) {
	_, standby, _, _ := s.member.part()
	following, stop := context.WithCancel(ctx)
	defer stop()
	followed := make(chan struct{})
	part("log", func(context.Context) error {
		defer close(followed)
		return standby.Follow(following, s.commits)
	})
	part("hello", func(context.Context) error { return s.greet(following) })
	if s.cfg.NATSURL != "" { // else the claim of another is this process's own, under a name that it lost
		part("standby", func(context.Context) error { return s.readyAsStandby(following, ready) })
	}
	if err := s.claim.Acquire(ctx); err != nil {
		return nil, nil // ctx ended
	}
	writerPart("claim", s.claim.Keep)
	writerPart("peers", s.serveHellos)
	began := time.Now()
	end, err := s.end(ctx)
	if err != nil {
		return nil, err
	}
	s.nearly(ctx, standby, end)
	stop()
	<-followed
	for n := standby.Head().N + 1; n <= end && ctx.Err() == nil; n++ {
		if err := patiently(ctx, func() error { return s.foldOne(ctx, standby, n) }); err != nil {
			return nil, fmt.Errorf("commit %d: %w", n, err)
		}
	}
	if ctx.Err() != nil {
		return nil, nil
	}
	world := standby.Take()
	s.foldedTo = world.Head.N
	if s.provenAll, err = s.provenBefore(ctx, world); err != nil {
		s.log.Warn("until when the term before shows the hosts alive is not known", "err", err)
	}
	s.log.Info("this process writes from here on", "commit", world.Head.N, "took", time.Since(began).Round(time.Millisecond))
	return world, nil
}

// end is the last commit of the log.
func (s *site) end(ctx context.Context) (n uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = patiently(ctx, func() error {
		seq, _, err := s.commits.Last(ctx)
		n = s.commits.NumberAt(seq)
		return err
	})
	return n, err
}

// nearly waits until the standby has folded the log's end, or little is missing: what
// a reader whose consumer was lost gets only seconds later is fetched one by one.
func (s *site) nearly(ctx context.Context, standby *commands.Standby, end uint64) {
	for head := standby.Head().N; head < end && ctx.Err() == nil; {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		err := standby.WaitFor(short, end)
		cancel()
		now := standby.Head().N
		if err == nil || now == head && end-now < 10_000 {
			return
		}
		head = now
	}
}

func (s *site) foldOne(ctx context.Context, standby *commands.Standby, n uint64) error {
	b, err := s.commits.Commit(ctx, n)
	if err != nil {
		return err
	}
	return standby.Fold(b)
}

// readyAsStandby says that this process serves, once another one writes.
func (s *site) readyAsStandby(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for serving := s.front.serving; ; { // ends with ctx or a writer
		select {
		case <-ctx.Done():
			return nil
		case <-serving:
			serving = nil
		case <-tick.C:
		}
		if serving == nil && s.member.Elsewhere() != nil {
			s.log.Info("standing by", "writer", s.claim.Holder().Name, "after", time.Since(s.started).Round(time.Millisecond))
			if err := s.keepAdminKey(); err != nil {
				return err
			}
			return ready(ctx)
		}
	}
}

// handOver ends this process's time as the writer so that no command fails: those
// that come wait for the next writer from here on, those under way are answered; then
// the loop ends, the claim is given up, and this process hands on what came meanwhile.
func (s *site) handOver(ctx context.Context, stop func(), part partFunc) {
	began := time.Now()
	under, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOverPatience)
	s.member.quiesce(under)
	cancel()
	s.member.set(func() { s.member.leaving = s.loop.Err() == nil })
	stop()
	s.release()
	world := s.loop.World()
	if world == nil {
		s.member.set(func() { s.member.leaving = false })
		return // it failed: what its world has is not what the log has
	}
	standby, err := s.newStandby(world)
	if err != nil {
		return
	}
	s.member.demote(standby)
	if s.nats != nil || len(s.peers.standing()) == 0 {
		return // the streams go with this process, or nobody is there to take over
	}
	part("log", func(ctx context.Context) error { return standby.Follow(ctx, s.commits) })
	waiting, cancel := context.WithTimeout(context.WithoutCancel(ctx), successorWait)
	defer cancel()
	part("claim", func(ctx context.Context) error { s.claim.Watch(ctx); return nil })
	for waiting.Err() == nil && s.member.Elsewhere() == nil {
		select {
		case <-waiting.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	s.log.Info("handed over", "to", s.claim.Holder().Name, "took", time.Since(began).Round(time.Millisecond))
}

// release gives the claim up. Nothing is appended any more.
func (s *site) release() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.claim.Release(ctx); err != nil {
		s.log.Warn("the writer claim was not given up, it runs out by itself", "err", err)
	}
}

// claimed reports whether this process surely is the only one that writes. The
// embedded server has no other.
func (s *site) claimed() bool {
	if s.nats != nil {
		return true
	}
	ttl := time.Duration(s.cfg.ClaimMS) * time.Millisecond
	return time.Until(s.claim.LiveUntil()) > ttl/10
}
