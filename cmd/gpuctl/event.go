package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var eventColumns = []column[client.Event]{
	{name: "TIME", cell: func(e client.Event) string { return when(e.Time) }},
	{name: "TYPE", cell: func(e client.Event) string { return e.Type }},
	{name: "SUBJECT", cell: func(e client.Event) string { return e.Subject }},
}

// eventFlags are those of both commands that show events.
type eventFlags struct {
	follow bool
	after  string
	types  []string
	limit  int
}

func (f *eventFlags) add(c *cobra.Command) {
	c.Flags().BoolVarP(&f.follow, "follow", "f", false, "go on as they happen; with -o json a line an event")
	c.Flags().StringVar(&f.after, "after", "", "only what is after this cursor: an event's id, or latest")
	c.Flags().StringSliceVar(&f.types, "type", nil, "only these types: allocation.placed, allocation.*")
	c.Flags().IntVar(&f.limit, "limit", 0, "stop after so many (0: do not)")
}

func (a *app) events() *cobra.Command {
	var f eventFlags
	var host string
	c := &cobra.Command{
		Use: "events", Short: "What happened: your own, or for those who run the site everything", Args: cobra.NoArgs,
		Long: "What happened, from the beginning or after a cursor. With -f from now on, unless --after says otherwise.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.follow && !cmd.Flags().Changed("after") {
				f.after = client.Latest
			}
			var selects []client.Select
			if host != "" {
				id, err := a.hostID(cmd.Context(), host)
				if err != nil {
					return err
				}
				selects = append(selects, client.OfHost(id))
			}
			if cmd.Flags().Changed("tenant") {
				id, err := a.tenantID(cmd.Context())
				if err != nil {
					return err
				}
				selects = append(selects, client.OfTenant(id))
			}
			return a.showEvents(cmd.Context(), f, selects)
		},
	}
	f.add(c)
	c.Flags().StringVar(&host, "host", "", "only one host and its slots")
	return c
}

func (a *app) allocationEvents() *cobra.Command {
	var f eventFlags
	c := &cobra.Command{
		Use: "events NAME", Short: "What happened to it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.allocationID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if isID(args[0], "alloc") { // the feed does not wait for what was just launched: this does
				c, err := a.client()
				if err != nil {
					return err
				}
				if _, err := c.Allocation(cmd.Context(), id); err != nil {
					return err
				}
			}
			return a.showEvents(cmd.Context(), f, []client.Select{client.OfAllocation(id)})
		},
	}
	f.add(c)
	return c
}

var errEnough = errors.New("enough")

func (a *app) showEvents(ctx cx, f eventFlags, selects []client.Select) error {
	if f.limit < 0 {
		return usage("--limit: want 0 or more")
	}
	if len(f.types) > 0 {
		selects = append(selects, client.OfTypes(f.types...))
	}
	if !f.follow {
		return many(a, ctx, f.limit, eventColumns, func(ctx cx, c *client.Client) (iter.Seq2[client.Event, error], error) {
			return c.PastEvents(ctx, f.after, selects...), nil
		})
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	n := 0
	err = c.Events(ctx, f.after, func(e *client.Event) error {
		if err := a.showEvent(e); err != nil {
			return err
		}
		if n++; n == f.limit {
			return errEnough
		}
		return nil
	}, selects...)
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		return nil //nolint:nilerr // ^C is how following ends
	}
	return err
}

func (a *app) showEvent(e *client.Event) error {
	if a.json() {
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s\n", b)
		return err
	}
	_, err := fmt.Fprintf(a.out, "%s  %-32s  %s\n", when(e.Time), clean(e.Type), dash(clean(e.Subject)))
	return err
}
