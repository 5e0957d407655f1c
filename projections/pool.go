package projections

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// patience is how long a connection may take to open, or one that lay idle to say
// that it lives: then its place in the pool is free again. A caller's own context
// may end sooner.
const patience = 10 * time.Second

// newPool makes the bounded set of connections for reads. The projector has its own.
func newPool(config *pgxpool.Config, size int32) (*pgxpool.Pool, error) {
	config.MaxConns, config.MinConns, config.MinIdleConns = size, 0, 0
	config.PingTimeout = patience
	// A connection looks at the schema that is current when it opens; a view finds
	// out when it is not that any more.
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		registerTypes(c.TypeMap())
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		_, err := c.Exec(ctx, `SELECT set_config('search_path', (SELECT schema_name FROM gpuaas.current), false)`)
		return err
	}
	return pgxpool.NewWithConfig(context.Background(), config) // the first read connects
}

func connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	c, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return nil, err
	}
	registerTypes(c.TypeMap())
	return c, nil
}

func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}
