package projections

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gpuaas/gpuaas/domain"
)

// Scope is who asks, as authenticated at the edge. What it may see is looked up in
// the snapshot that the answer comes from.
type Scope struct {
	// Platform claims a platform role; it counts only if the user has one, or if
	// there is no user: then the control plane itself asks.
	Platform bool
	User     domain.UserID
	Tenant   domain.TenantID
}

// Reader answers queries. Each runs in one snapshot, as a database role that is
// bound by row-level security, and returns the commit number it reflects. What the
// scope may not see is not there: not_found.
type Reader struct {
	s       *Store
	cursors cursors
	turn    func(ctx context.Context) (done func(), err error) // nil: whoever comes first
}

// Reader makes a reader. key encrypts list cursors, so that they tell nothing of
// the site's activity; replicas that answer the same callers share it.
func (s *Store) Reader(key []byte) *Reader {
	return &Reader{s: s, cursors: newCursors(key)}
}

// InTurn makes a reader that asks turn before it takes a connection, and calls done
// once it has given it back. An error of turn is the read's.
func (r *Reader) InTurn(turn func(ctx context.Context) (done func(), err error)) *Reader {
	out := *r
	out.turn = turn
	return &out
}

// Connections is how many reads run at once.
func (r *Reader) Connections() int { return int(r.s.c.ReadConns) }

// view is one snapshot.
type view struct {
	r        *Reader
	conn     *pgx.Conn
	n        uint64
	at       domain.Time
	platform bool
	user     string
	tenant   string // the user's, by its membership
	role     string // in it
}

// readAttempts bounds how often a read is tried when the database went away or the
// schema was swapped under it.
const readAttempts = 5

// view runs fn in a snapshot and returns the commit number it reflects.
func (r *Reader) view(ctx context.Context, scope Scope, fn func(ctx context.Context, v *view) error) (uint64, error) {
	if !r.s.usable.Load() {
		return 0, unavailable(errNotUsed)
	}
	for attempt := 1; ; attempt++ { // ends after readAttempts
		n, err := r.viewOnce(ctx, scope, fn)
		if err == nil {
			return n, nil
		}
		var refusal *domain.Error
		if errors.As(err, &refusal) {
			return n, err
		}
		if ctx.Err() != nil {
			return 0, unavailable(err)
		}
		if !transient(err) && !swapped(err) {
			return 0, domain.AsError(err)
		}
		if attempt == readAttempts {
			return 0, unavailable(err)
		}
		r.s.reads.Reset() // after a server went away none of its connections is good
	}
}

// errNotUsed: the database was not reached since the start.
var errNotUsed = errors.New("projections: not connected yet")

// swapped reports whether a rebuild replaced the tables between two statements: a
// table, its schema or the shape of a prepared result is gone.
func swapped(err error) bool {
	var pg *pgconn.PgError
	return errors.Is(err, errMoved) || errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "3F000" || pg.Code == "0A000")
}

func (r *Reader) viewOnce(ctx context.Context, scope Scope, fn func(ctx context.Context, v *view) error) (uint64, error) {
	if r.turn != nil {
		done, err := r.turn(ctx)
		if err != nil {
			return 0, err
		}
		defer done()
	}
	pooled, err := r.s.reads.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer pooled.Release() // closes it, if it is still in a transaction
	conn := pooled.Conn()
	defer func() {
		if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
			_, _ = conn.Exec(ctx, `ROLLBACK`)
		}
	}()
	v := &view{r: r, conn: conn, user: scope.User.String()}
	if err := v.enter(ctx, scope); err != nil {
		return 0, err
	}
	return v.n, fn(ctx, v)
}

// errMoved: the connection still looks at a schema that is not the current one.
var errMoved = errors.New("projections: the read model moved")

// enter opens the snapshot, finds what the scope may see in it, and drops to the
// reading role. A connection keeps its search path; where that is not the current
// schema's any more, all of them are replaced.
func (v *view) enter(ctx context.Context, scope Scope) error {
	var operator, moved bool
	var tenant, role string
	var b pgx.Batch
	b.Queue(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	b.Queue(`SELECT c.n, c.at, EXISTS (SELECT FROM operators o WHERE o.user_id = $1), coalesce(m.tenant_id, ''), coalesce(m.role, ''),
		current_schema() <> (SELECT schema_name FROM gpuaas.current)
		FROM checkpoint c LEFT JOIN tenant_memberships m ON m.user_id = $1`, v.user).QueryRow(func(row pgx.Row) error {
		return row.Scan(&v.n, &v.at, &operator, &tenant, &role, &moved)
	})
	if err := v.conn.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	if moved {
		return errMoved
	}
	v.platform = scope.Platform && (operator || scope.User.IsZero())
	if scope.Tenant.IsZero() || scope.Tenant.String() == tenant {
		v.tenant, v.role = tenant, role
	}
	mode := "off"
	if v.platform {
		mode = "on"
	}
	_, err := v.conn.Exec(ctx, `SELECT set_config('app.platform', $1, true), set_config('app.tenant', $2, true), set_config('role', 'gpuaas_reader', true)`, mode, v.tenant)
	return err
}

// sees reports whether the tenant's things are visible.
func (v *view) sees(tenant string) bool { return v.platform || tenant != "" && tenant == v.tenant }

// requirePlatform is for what belongs to the site.
func (v *view) requirePlatform() error {
	if !v.platform {
		return domain.Errorf(domain.Forbidden, "auth.platform_only", "this needs a platform role")
	}
	return nil
}

// requireTenant is for what belongs to a tenant.
func (v *view) requireTenant(ctx context.Context, id domain.TenantID) error {
	if !v.sees(id.String()) {
		return notFound("tenant")
	}
	return v.exists(ctx, "tenant", `SELECT EXISTS (SELECT FROM organizations WHERE id = $1)`, id.String())
}

// requireProject is for what belongs to a project: members of its tenant see it.
func (v *view) requireProject(ctx context.Context, id domain.ProjectID) error {
	return v.exists(ctx, "project", `SELECT EXISTS (SELECT FROM projects WHERE id = $1 AND ($2 OR tenant_id = $3))`, id.String(), v.platform, v.tenant)
}

func (v *view) exists(ctx context.Context, what, sql string, args ...any) error {
	var ok bool
	if err := v.conn.QueryRow(ctx, sql, args...).Scan(&ok); err != nil {
		return err
	}
	if !ok {
		return notFound(what)
	}
	return nil
}

// filter collects conditions; ? stands for the next argument. A word that is not
// storable is nowhere.
type filter struct {
	where []string
	args  []any
}

func (f *filter) add(cond string, args ...any) {
	for _, a := range storableArgs(args) {
		f.args = append(f.args, a)
		cond = strings.Replace(cond, "?", "$"+strconv.Itoa(len(f.args)), 1)
	}
	f.where = append(f.where, cond)
}

// named restricts rows to those with a name, if one is asked for.
func (f *filter) named(o ListOptions, column string) {
	if o.Name != "" {
		f.add(column+" = ?", o.Name)
	}
}

// any restricts rows to those that one of the conditions holds for, if there are
// any; each of them has its one argument, or none.
func (f *filter) any(conds []string, args ...any) {
	if len(conds) > 0 {
		f.add("("+strings.Join(conds, " OR ")+")", args...)
	}
}

// own restricts rows to what the view may see; row-level security does so again.
func (f *filter) own(v *view, column string) {
	if !v.platform {
		f.add(column+" = ? AND "+column+" <> ''", v.tenant)
	}
}

func (f *filter) sql() string {
	if len(f.where) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(f.where, " AND ")
}

// ListOptions cut a list into pages.
type ListOptions struct {
	Limit      int    // 1 to 500; 50 if zero
	Cursor     string // of the page before; "" is the beginning
	Descending bool   // newest first; the same on every page
	Name       string // only what has this name; "": all. Of lists of what has names
}

// Page is one page of a list.
type Page[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitempty"` // "" on the last page
	N          uint64 `json:"-"`                     // the commit it reflects
}

// The bounds of a page.
const (
	DefaultLimit = 50
	MaxLimit     = 500
)

// keyed is a row of a list: its place in the list's order.
type keyed interface{ place() cursor }

// list reads one page. from is everything up to WHERE; order are the columns of
// the row's place, which are unique together.
func list[T keyed](ctx context.Context, v *view, kind listKind, from string, f filter, order []string, o ListOptions) (Page[T], error) {
	page := Page[T]{N: v.n, Items: []T{}}
	limit := o.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	if limit < 1 || limit > MaxLimit {
		e := domain.Errorf(domain.Invalid, "list.limit", "limit: want 1 to %d", MaxLimit)
		e.Field = "limit"
		return page, e
	}
	compare, direction := ">", ""
	if o.Descending {
		compare, direction = "<", " DESC"
	}
	if o.Cursor != "" {
		c, err := v.r.cursors.decode(kind, o.Descending, o.Cursor)
		if err != nil {
			return page, err
		}
		if len(order) == 1 {
			f.add(order[0]+" "+compare+" ?", c.a)
		} else {
			f.add(fmt.Sprintf("(%s, %s) %s (?, ?)", order[0], order[1], compare), c.a, c.b)
		}
	}
	f.args = append(f.args, limit+1)
	sql := fmt.Sprintf("%s%s ORDER BY %s%s LIMIT $%d", from, f.sql(), strings.Join(order, direction+", "), direction, len(f.args))
	items, err := collect[T](ctx, v, sql, f.args...)
	if err != nil {
		return page, err
	}
	if len(items) > limit {
		items = items[:limit]
		page.NextCursor = v.r.cursors.encode(kind, o.Descending, items[limit-1].place())
	}
	if items != nil {
		page.Items = items
	}
	return page, nil
}

func collect[T any](ctx context.Context, v *view, sql string, args ...any) ([]T, error) {
	rows, err := v.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[T])
}

// get reads one row, or answers that there is no such `what`.
func get[T any](ctx context.Context, v *view, what, sql string, args ...any) (T, error) {
	rows, err := v.conn.Query(ctx, sql, args...)
	if err != nil {
		return *new(T), err
	}
	out, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
	if errors.Is(err, pgx.ErrNoRows) {
		return out, notFound(what)
	}
	return out, err
}

// crn is a resource's full name: {prefix}:{region}:{tenant}:{project}:{type}:{id}.
func (r *Reader) crn(tenant, project, typ, id string) string {
	return strings.Join([]string{r.s.c.CRNPrefix, r.s.c.Region, tenant, project, typ, id}, ":")
}
