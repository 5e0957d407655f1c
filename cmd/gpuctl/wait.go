package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

// waitFlags are those of everything that takes its time.
type waitFlags struct {
	on      bool
	timeout time.Duration
}

func (w *waitFlags) add(c *cobra.Command, until string) {
	c.Flags().BoolVarP(&w.on, "wait", "w", false, "wait until "+until)
	c.Flags().DurationVar(&w.timeout, "timeout", 15*time.Minute, "of --wait: then exit with 7")
}

func (w *waitFlags) check() error {
	if w.timeout <= 0 {
		return usage("--timeout: want more than 0: 15m")
	}
	return nil
}

// waitFor waits until an allocation is in the state, and shows it.
func (a *app) waitFor(parent context.Context, id string, w waitFlags, state string) error {
	ctx, cancel := context.WithTimeout(parent, w.timeout)
	defer cancel()
	progress := terminal(a.err)
	start := time.Now()
	var answer *client.Answer
	watched := client.OnAnswer(ctx, func(r *client.Answer) { answer = r })
	x, err := a.conn.WatchAllocation(watched, id, func(x *client.Allocation) {
		if progress {
			fmt.Fprintf(a.err, "\r\033[K%s %s, %s", clean(x.Name), clean(x.State), time.Since(start).Truncate(time.Second))
		}
	}, state)
	if progress {
		fmt.Fprint(a.err, "\r\033[K")
	}
	var ended *client.StateError
	switch {
	case err != nil && parent.Err() != nil:
		return &failure{exitFailed, "interrupted while waiting for " + id, "it goes on at the site"}
	case errors.Is(err, context.DeadlineExceeded):
		now := "not yet " + state
		if x != nil {
			now = x.State + ", " + now
		}
		return &failure{exitTimeout, fmt.Sprintf("after %s %s is %s", w.timeout, id, now), "it goes on at the site: see gpuctl allocations get"}
	case errors.As(err, &ended):
		return &failure{exitFailed, ended.Error(), "see gpuctl allocations events " + id}
	case err != nil:
		return err
	}
	if a.json() {
		return a.writeJSON(answer.Body)
	}
	return a.details(lines(*x, allocationColumns))
}

func readBounded(r io.Reader, flag string, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, usage("%s: %v", flag, err)
	}
	if int64(len(b)) > most {
		return nil, usage("%s: more than %d bytes", flag, most)
	}
	return b, nil
}
