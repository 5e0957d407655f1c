package client

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net/url"
	"strconv"
)

// Page is a part of a list. Without NextCursor it is the last one.
type Page[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor"`
}

// ListOption changes what a list brings.
type ListOption func(url.Values)

// NewestFirst turns a list round.
func NewestFirst() ListOption { return func(q url.Values) { q.Set("order", "desc") } }

// Named brings only what has the name: of tenants, projects, keys, hosts and
// allocations.
func Named(name string) ListOption { return func(q url.Values) { q.Set("name", name) } }

// OnlyLive brings only allocations that are not released yet.
func OnlyLive() ListOption { return func(q url.Values) { q.Set("live", "true") } }

// PageSize is how many items are asked for at once: 1 to 500, 200 if not said.
func PageSize(n int) ListOption {
	return func(q url.Values) { q.Set("limit", strconv.Itoa(min(max(n, 1), 500))) }
}

// list walks over all pages of a list. An error ends it.
func list[T any](ctx context.Context, c *Client, path string, query url.Values, options []ListOption) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		q := url.Values{"limit": {strconv.Itoa(pageItems)}}
		maps.Copy(q, query)
		for _, o := range options {
			o(q)
		}
		for last := ""; ; { // ends with the list: a cursor that does not move is an error
			page, err := get[Page[T]](ctx, c, path, q)
			if err == nil && page.NextCursor != "" && page.NextCursor == last {
				err = errors.New("client: the list goes round in circles at " + path)
			}
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.NextCursor == "" {
				return
			}
			last = page.NextCursor
			q.Set("cursor", last)
		}
	}
}

// Collect reads a whole list, up to limit items (0: all).
func Collect[T any](seq iter.Seq2[T, error], limit int) ([]T, error) {
	var out []T
	for item, err := range seq {
		if err != nil {
			return out, err
		}
		if out = append(out, item); len(out) == limit {
			break
		}
	}
	return out, nil
}

// queryOf makes a query of names and values, without those that are empty.
func queryOf(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// items reads a list that has no pages.
func items[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	page, err := get[Page[T]](ctx, c, path, query)
	if err != nil {
		return nil, err
	}
	return page.Items, nil
}
