package streams

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// A Copy is what one server of a cluster has of a stream.
type Copy struct {
	Server string
	// Offline: the server does not run, or has not caught up, and was not read.
	Offline bool
	// Err says what is wrong with the copy; nil: it is whole.
	Err error
}

// copies has each server's copy of a stream read; nil where there is one server. Readers
// take any server's copy, and go to another one when it is damaged, so only this finds
// all the damage while there are copies to mend it from.
func copies(ctx context.Context, info *jetstream.StreamInfo, read func(server string) error) (out []Copy, err error) {
	if info.Cluster == nil || len(info.Cluster.Replicas) == 0 {
		return nil, nil
	}
	servers := append([]*jetstream.PeerInfo{{Name: info.Cluster.Leader, Current: true}}, info.Cluster.Replicas...)
	for _, s := range servers {
		c := Copy{Server: s.Name, Offline: s.Offline || !s.Current}
		if !c.Offline {
			c.Err = read(s.Name)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Copy) int { return cmp.Compare(a.Server, b.Server) })
	return out, nil
}

// Copies reads what each server of a cluster has of the log, up to the commit `to`, and
// checks the hash chain. It is nil where there is one server.
func (l *Log) Copies(ctx context.Context, to domain.Head) ([]Copy, error) {
	info, err := l.info(ctx)
	if err != nil || to == (domain.Head{}) {
		return nil, err
	}
	return copies(ctx, info, func(server string) error {
		var chain Chain
		t := tail{
			js: l.js, stream: l.stream, server: server, next: info.State.FirstSeq, end: l.Seq(to.N), grace: l.c.LostTailGrace,
			fn: func(m message) error { return chain.Next(m.data) },
		}
		err := t.run(ctx)
		if err == nil && chain.Head != to {
			err = fmt.Errorf("%w: it ends with commit %d %s, not %d %s", ErrForked, chain.Head.N, chain.Head.Hash, to.N, to.Hash)
		}
		return err
	})
}

// Copies reads what each server of a cluster has of the feed, as [Feed.Whole] does. It is
// nil where there is one server.
func (f *Feed) Copies(ctx context.Context) ([]Copy, error) {
	info, err := streamInfo(ctx, f.js, f.site.Feed())
	if err != nil || info.State.Msgs == 0 {
		return nil, err
	}
	return copies(ctx, info, func(server string) error { return f.whole(ctx, info, server) })
}
