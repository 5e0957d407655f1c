// Package client speaks to a site's REST interface: one method a route, plain
// structs, ids as strings, times as [time.Time], money as whole micros (10^-6 of
// the currency's unit). It needs nothing but the standard library.
//
//	c, err := client.New("https://auh1.example.com", key)
//	a, err := c.CreateAllocation(ctx, project, client.NewAllocation{Name: "train-7", SKU: "gpu-1x"})
//	a, err = c.WaitAllocation(ctx, a.ID, client.Running)
//
// What it does by itself:
//
//   - A refusal is a [*Problem] (find it with errors.As) with a stable code; a site
//     that cannot be reached is an [*Unreachable].
//   - Every command carries an Idempotency-Key that stays the same over its
//     retries, so that a lost answer never launches twice. [WithIdempotencyKey]
//     sets one that outlives the process.
//   - What may pass by itself within seconds (a busy site, a broken connection) is
//     tried again, four times at most unless [Tries] says otherwise, with growing
//     and jittered pauses. A full fleet or a quota may pass too, but not in seconds:
//     that is left to the caller.
//   - It remembers the highest Log-Sequence it saw and asks reads for at least that
//     much, so that one's own writes are seen; [AnySequence] switches that off.
//   - Answers are bounded in size and time. Redirects are not followed, because
//     they would carry the key elsewhere. The key is never logged or printed.
//
// What it may not do: import anything of this project, so that a tenant's program
// takes none of our dependencies.
//
// Start reading at client.go, then request.go; a concept's file (allocation.go,
// host.go, ...) has its structs and its routes.
package client
