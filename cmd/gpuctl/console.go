package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

// consolePause is between two looks at a console that is followed.
const consolePause = time.Second

func (a *app) console() *cobra.Command {
	var q client.ConsoleQuery
	var tail int64
	var follow bool
	c := &cobra.Command{
		Use: "console NAME", Short: "What a VM wrote to its serial console", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.allocationID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if tail < 1 || tail > 512<<10 {
				return usage("--tail: want 1 to %d bytes", 512<<10)
			}
			from := -tail
			q.Offset, q.Limit = &from, int(tail)
			if !follow {
				if a.json() {
					return one(a, cmd.Context(), nil, func(ctx cx, c *client.Client) (*client.Console, error) { return c.Console(ctx, id, q) })
				}
				part, err := a.conn.Console(cmd.Context(), id, q)
				if err == nil {
					_, err = a.out.Write(part.Data)
				}
				return err
			}
			return a.followConsole(cmd.Context(), id, q)
		},
	}
	c.Flags().IntVar(&q.VM, "vm", 0, "which VM, from 0 on")
	c.Flags().Int64Var(&tail, "tail", 64<<10, "begin so many bytes before the end")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as it writes")
	return c
}

// followConsole ends with ^C or when the VM is gone.
func (a *app) followConsole(ctx cx, id string, q client.ConsoleQuery) error {
	t := time.NewTicker(consolePause)
	defer t.Stop()
	for { // see above
		part, err := a.conn.Console(ctx, id, q)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := a.out.Write(part.Data); err != nil {
			return err
		}
		q.Offset, q.Limit = &part.Offset, 512<<10
		if len(part.Data) > 0 {
			continue
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}
