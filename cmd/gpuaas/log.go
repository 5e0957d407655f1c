package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

func logCommand() *cobra.Command {
	c := &cobra.Command{Use: "log", Short: "Read and verify the log of a site"}
	var from, to uint64
	verify := &cobra.Command{
		Use: "verify", Short: "Check the hash chain, decide every command again and compare", Args: cobra.NoArgs,
		Long: "Reads the whole log, on a cluster every server's copy of it, checks numbers and the hash chain, decides every recorded command again and compares what follows, byte for byte, with what was recorded, and reads every document of the vault that the log names, if site.secret is there, the feed, and what the audit stream has of refusals: what cannot be read of that is said, and no error, since nothing brings it back and nothing follows from it. On a running site it connects to it; with --data-dir of a stopped site it opens the files.",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, _, err := loadConfig(c)
			if err != nil {
				return err
			}
			names, err := streams.ParseSite(cfg.Site)
			if err != nil {
				return err
			}
			return withSite(c.Context(), cfg, func(dial func(server.Role) streams.Dial, l *streams.Log) error {
				v, err := commands.Verify(c.Context(), l)
				if err != nil {
					return err
				}
				copies, err := l.Copies(c.Context(), v.Head)
				logCopies, err := copiesSaid("log", copies, err)
				if err != nil {
					return err
				}
				vault, err := readDocuments(c.Context(), cfg.DataDir, names, dial(server.Runtime), v.Documents)
				if err != nil {
					return err
				}
				feed, feedCopies, err := readFeed(c.Context(), names, dial(server.Runtime))
				if err != nil {
					return err
				}
				audit, err := readAudit(c.Context(), cfg.DataDir, names, dial(server.Runtime))
				if err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "ok: %d commits, %d decisions executed again with equal results, %d events\nhead %d %s\nstate %s\nvault: %s\nfeed: all up to event %d\naudit: %s\n%s", v.Head.N, v.Decisions, v.Events, v.Head.N, v.Head.Hash, v.State, vault, feed, audit, logCopies+feedCopies)
				return nil
			})
		},
	}
	export := &cobra.Command{
		Use: "export", Short: "Print commits as JSON, one a line", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withLog(c, func(ctx context.Context, l *streams.Log) error {
				enc := json.NewEncoder(c.OutOrStdout())
				return l.Read(ctx, l.Seq(max(from, 1)), func(seq uint64, b []byte) error {
					commit, err := domain.DecodeCommit(b)
					if err != nil {
						return fmt.Errorf("message %d: %w", seq, err)
					}
					if to != 0 && commit.N > to {
						return errStop
					}
					return enc.Encode(commit)
				})
			})
		},
	}
	export.Flags().Uint64Var(&from, "from", 1, "first commit")
	export.Flags().Uint64Var(&to, "to", 0, "last commit; 0: the newest")
	for _, sub := range []*cobra.Command{verify, export, logExplain()} {
		configFlags(sub.Flags())
		c.AddCommand(sub)
	}
	return c
}

// copiesSaid says what the servers of a cluster have of a stream; damage is an error.
func copiesSaid(of string, copies []streams.Copy, err error) (string, error) {
	if err != nil || len(copies) == 0 {
		return "", err
	}
	var whole, offline, damaged []string
	for _, one := range copies {
		switch {
		case one.Err != nil:
			damaged = append(damaged, one.Server)
			err = errors.Join(err, one.Err)
		case one.Offline:
			offline = append(offline, one.Server)
		default:
			whole = append(whole, one.Server)
		}
	}
	switch {
	case len(damaged) == 1 && len(whole) > 0:
		return "", fmt.Errorf("the %s's copy on server %s is damaged, and not that of %s: stop the first, remove its jetstream directory and start it, it copies from the others: %w", of, damaged[0], strings.Join(whole, ", "), err)
	case len(damaged) > 0: // what one lacks it could not copy from another that lacks it
		return "", fmt.Errorf("the %s's copies on the servers %s are damaged: remove nothing there, and bring the newest backup back: %w", of, strings.Join(damaged, ", "), err)
	}
	said := fmt.Sprintf("copies of the %s: whole on %s", of, strings.Join(whole, ", "))
	if len(offline) > 0 {
		said += "; not read, since they are not up to date: " + strings.Join(offline, ", ")
	}
	return said + "\n", nil
}

// readDocuments reads what the log names of the vault: a document is durable before it is
// named, and nothing takes it away.
func readDocuments(ctx context.Context, dir string, names streams.Names, dial streams.Dial, digests []domain.Digest) (said string, err error) {
	path := filepath.Join(dir, secretName)
	if !isFile(path) {
		return "not read, " + path + " is not there", nil
	}
	secret, err := siteSecret(dir)
	if err != nil {
		return "", err
	}
	vault, err := streams.OpenVault(dial, names, derive(secret, "vault"))
	if err != nil {
		return "", err
	}
	defer vault.Close()
	for _, d := range digests {
		if _, err := vault.Get(ctx, d); err != nil {
			return "", fmt.Errorf("the log names it, and it cannot be read: %w", err)
		}
	}
	return fmt.Sprintf("%d documents read", len(digests)), nil
}

// readFeed reads every event, from every server of a cluster.
func readFeed(ctx context.Context, names streams.Names, dial streams.Dial) (last uint64, copies string, err error) {
	feed, err := streams.OpenFeed(dial, names)
	if err != nil {
		return 0, "", err
	}
	defer feed.Close()
	if last, err = feed.Whole(ctx); err != nil {
		return last, "", fmt.Errorf("the feed is damaged, and gpuaas streams rebuild-feed makes it anew from the log: %w", err)
	}
	all, err := feed.Copies(ctx)
	copies, err = copiesSaid("feed", all, err)
	return last, copies, err
}

// readAudit reads every record of what was refused.
func readAudit(ctx context.Context, dir string, names streams.Names, dial streams.Dial) (said string, err error) {
	audit, err := streams.OpenAudit(dial, names)
	if err != nil {
		return "", err
	}
	defer audit.Close()
	last, err := audit.Whole(ctx)
	if errors.Is(err, streams.ErrUnreadable) {
		return fmt.Sprintf("DAMAGED, GET /v1/audit/denials shows where: %v", err), nil
	}
	if err != nil {
		return "", err
	}
	kept, err := readAuditHead(dir)
	if err == nil && last < kept {
		err = fmt.Errorf("%s ends with record %d, and record %d was kept", names.Audit(), last, kept)
	}
	if err != nil {
		return fmt.Sprintf("DAMAGED: %v", err), nil
	}
	return fmt.Sprintf("all up to record %d", last), nil
}

var errStop = fmt.Errorf("end of the range")

// withLog opens the log of a running site, whose address and credentials are in
// the data directory, or the files of a stopped one.
func withLog(c *cobra.Command, f func(context.Context, *streams.Log) error) error {
	cfg, _, _, err := loadConfig(c)
	if err != nil {
		return err
	}
	names, err := streams.ParseSite(cfg.Site)
	if err != nil {
		return err
	}
	dial, closeServer, err := dialSite(c.Context(), cfg)
	if err != nil {
		return err
	}
	defer closeServer()
	l, err := streams.OpenLog(c.Context(), streams.LogConfig{Dial: dial(server.Runtime), Site: names})
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer l.Close()
	if err := f(c.Context(), l); err != nil && !errors.Is(err, errStop) {
		return err
	}
	return nil
}
