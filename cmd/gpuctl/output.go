package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/gpuaas/gpuaas/client"
)

// column is one column of a table, and one line where a single thing is shown.
type column[T any] struct {
	name string
	cell func(T) string
	wide bool // only where a single thing is shown
}

func (a *app) json() bool { return a.flags.output == "json" }

func (a *app) checkFormat() error {
	if a.flags.output != "table" && a.flags.output != "json" {
		return usage("--output %q: want table or json", clean(a.flags.output))
	}
	return nil
}

// capture keeps the answers to the requests that are made with the context.
func capture(ctx context.Context) (context.Context, *[]*client.Answer) {
	answers := &[]*client.Answer{}
	return client.OnAnswer(ctx, func(r *client.Answer) { *answers = append(*answers, r) }), answers
}

// one makes a request and shows what came of it.
func one[T any](a *app, ctx context.Context, columns []column[T], request func(context.Context, *client.Client) (*T, error)) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	ctx, answers := capture(ctx)
	v, err := request(ctx, c)
	if err != nil {
		return err
	}
	if a.json() {
		return a.writeJSON((*answers)[len(*answers)-1].Body)
	}
	return a.details(lines(*v, columns))
}

// many walks over a list, up to limit items (0: all), and shows it.
func many[T any](a *app, ctx context.Context, limit int, columns []column[T], request func(context.Context, *client.Client) (iter.Seq2[T, error], error)) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	ctx, answers := capture(ctx)
	list, err := request(ctx, c)
	if err != nil {
		return err
	}
	items, err := client.Collect(list, limit)
	if err != nil {
		return err
	}
	if a.json() {
		return a.writePages(*answers, len(items))
	}
	return show(a, items, columns)
}

// show writes a table. That there is nothing is said on stderr: a script reads
// stdout.
func show[T any](a *app, items []T, columns []column[T]) error {
	if len(items) == 0 {
		fmt.Fprintln(a.err, "none")
		return nil
	}
	return table(a.out, items, columns)
}

// writePages writes the pages as one list, its items as the site wrote them.
func (a *app) writePages(answers []*client.Answer, n int) error {
	if len(answers) == 1 && n == itemsIn(answers[0].Body) {
		return a.writeJSON(answers[0].Body)
	}
	all := client.Page[json.RawMessage]{Items: []json.RawMessage{}}
	for _, r := range answers {
		var p client.Page[json.RawMessage]
		if err := json.Unmarshal(r.Body, &p); err != nil {
			return err
		}
		all.Items = append(all.Items, p.Items...)
		all.NextCursor = p.NextCursor
	}
	if n < len(all.Items) {
		all.Items, all.NextCursor = all.Items[:n], "" // the cursor is not of this place
	}
	b, err := json.Marshal(struct {
		Items      []json.RawMessage `json:"items"`
		NextCursor string            `json:"next_cursor,omitempty"`
	}(all))
	if err != nil {
		return err
	}
	return a.writeJSON(b)
}

func itemsIn(body []byte) int {
	var p client.Page[json.RawMessage]
	_ = json.Unmarshal(body, &p) // it was read as a list before
	return len(p.Items)
}

func (a *app) writeJSON(b []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, bytes.TrimSpace(b), "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err := out.WriteTo(a.out)
	return err
}

// says writes where something is now that the site did not answer with.
func (a *app) says(id, state string) error {
	if a.json() {
		b, err := json.Marshal(client.Changed{ID: id, State: state})
		if err != nil {
			return err
		}
		return a.writeJSON(b)
	}
	_, err := fmt.Fprintln(a.out, clean(id), state)
	return err
}

// table writes rows under their heads.
func table[T any](w io.Writer, items []T, columns []column[T]) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(cell func(column[T]) string) {
		var cells []string
		for _, c := range columns {
			if !c.wide {
				cells = append(cells, cell(c))
			}
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t "))
	}
	row(func(c column[T]) string { return c.name })
	for _, item := range items {
		row(func(c column[T]) string { return dash(clean(c.cell(item))) })
	}
	return t.Flush()
}

// details writes a single thing, a line a value.
func (a *app) details(pairs [][2]string) error {
	t := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	for _, p := range pairs {
		if p[1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", p[0], p[1])
		}
	}
	return t.Flush()
}

func lines[T any](v T, columns []column[T]) [][2]string {
	var out [][2]string
	for _, c := range columns {
		out = append(out, [2]string{strings.ToLower(c.name), clean(c.cell(v))})
	}
	return out
}

// clean keeps what others wrote from steering this terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// clip is the beginning of what is too long for a message.
func clip(s string) string {
	if s = clean(s); len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "..."
	}
	return s
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// when is a time as people read it: local, to the second.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// quiet makes requests with the context that are not shown: those that find ids.
func quiet(ctx context.Context) context.Context {
	return client.OnAnswer(ctx, func(*client.Answer) {})
}
