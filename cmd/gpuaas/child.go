package main

import (
	"log/slog"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// child is a program that runs beside a development site, as it would under
// systemd: when it ends by itself it is started again.
type child struct {
	name  string
	make  func() *exec.Cmd
	log   *slog.Logger
	stop  chan struct{}
	ended chan struct{} // closed when it will not run again
}

// The pauses before a child is started again, and how long it may take to stop: a
// lab takes its VMs down first.
const (
	childPause    = 500 * time.Millisecond
	childPauseMax = 30 * time.Second
	childGrace    = 40 * time.Second
)

// startChild fails if the first start does.
func startChild(name string, log *slog.Logger, make func() *exec.Cmd) (*child, error) {
	c := &child{name: name, make: make, log: log, stop: newSignal(), ended: newSignal()}
	cmd := make()
	ended, err := startWithThread(cmd)
	if err != nil {
		return nil, err
	}
	go c.run(cmd, ended)
	return c, nil
}

func newSignal() chan struct{} { return make(chan struct{}) }

// run watches the child until stop.
func (c *child) run(cmd *exec.Cmd, ended <-chan error) {
	defer close(c.ended)
	for pause := childPause; ; pause = min(2*pause, childPauseMax) { // ends with stop
		if cmd != nil {
			select {
			case <-c.stop:
				c.finish(cmd, ended)
				return
			case err := <-ended:
				c.log.Warn("a program of this site ended, it will be started again", "program", c.name, "err", err)
			}
		}
		select {
		case <-c.stop:
			return
		case <-time.After(pause):
		}
		cmd = c.make()
		var err error
		if ended, err = startWithThread(cmd); err != nil {
			c.log.Warn("a program of this site does not start", "program", c.name, "err", err)
			cmd = nil
		}
	}
}

// finish asks the child to end, and kills it if it does not.
func (c *child) finish(cmd *exec.Cmd, ended <-chan error) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case _ = <-ended:
	case <-time.After(childGrace):
		_ = cmd.Process.Kill()
		_ = <-ended
	}
}

// stopChildren ends the hosts' processes, all at once: asked first, then killed.
func (s *site) stopChildren() {
	for _, c := range s.children {
		close(c.stop)
	}
	for _, c := range s.children {
		<-c.ended
	}
	s.children = nil
}

// startWithThread starts cmd from a thread that lives as long as cmd does: the
// kernel sends Pdeathsig when the thread that started a child ends. The channel
// brings how it ended.
func startWithThread(cmd *exec.Cmd) (<-chan error, error) {
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	return ended, <-started
}
