package streams

import "context"

// Commit reads commit n from the stream's leader; [ErrNotFound] if there is none.
func (l *Log) Commit(ctx context.Context, n uint64) ([]byte, error) { return l.message(ctx, l.Seq(n)) }
