package streams

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// A Copy is what one server of a cluster has of the log.
type Copy struct {
	Server string
	// Offline: the server does not run, or has not caught up, and was not read.
	Offline bool
	// Err says what is wrong with the copy; nil: it is whole.
	Err error
}

// Copies reads what each server of a cluster has of the log, up to the commit `to`, and
// checks the hash chain. Readers take any server's copy, and go to another one when it
// is damaged, so only this finds all the damage while there are copies to mend it from.
// It is nil where there is one server.
func (l *Log) Copies(ctx context.Context, to domain.Head) (out []Copy, err error) {
	info, err := l.info(ctx)
	if err != nil || info.Cluster == nil || len(info.Cluster.Replicas) == 0 || to == (domain.Head{}) {
		return nil, err
	}
	servers := append([]*jetstream.PeerInfo{{Name: info.Cluster.Leader, Current: true}}, info.Cluster.Replicas...)
	for _, s := range servers {
		c := Copy{Server: s.Name, Offline: s.Offline || !s.Current}
		if !c.Offline {
			c.Err = l.copyOf(ctx, s.Name, info.State.FirstSeq, to)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Copy) int { return cmp.Compare(a.Server, b.Server) })
	return out, nil
}

func (l *Log) copyOf(ctx context.Context, server string, first uint64, to domain.Head) error {
	var chain Chain
	t := tail{js: l.js, stream: l.stream, server: server, next: first, end: l.Seq(to.N), grace: l.c.LostTailGrace, fn: func(m message) error {
		return chain.Next(m.data)
	}}
	err := t.run(ctx)
	if err == nil && chain.Head != to {
		err = fmt.Errorf("%w: it ends with commit %d %s, not %d %s", ErrForked, chain.Head.N, chain.Head.Hash, to.N, to.Hash)
	}
	return err
}
