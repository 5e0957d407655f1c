// Package plan is the pure heart of the host daemon: [Diff] compares what a host
// should be with what it is and lists the steps between the two.
//
// It keeps nothing and touches nothing, so a plan can be made as often as one
// likes: after a step, after an event, after a crash. The caller's duties:
//
//  1. Observe before every call; a plan from an old observation is void.
//  2. Run a step only when all steps in its After are done.
//  3. Never run two steps at once that share a VM or a slot.
//  4. Note durably that a VM is taken on (State.Known) and that it is about to
//     write a drive (State.Dirty) before its first step runs, and take the latter
//     back only on a verified wipe.
//
// It fails closed: what contradicts itself, or what nobody can vouch for, is
// refused, and nothing is started or erased on a guess. What runs and should run
// is never touched.
package plan
