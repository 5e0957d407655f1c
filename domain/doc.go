// Package domain is the deterministic heart of a site: the world (the state of
// one site in memory), the commands that ask for a change, the events that
// record one, and the two pure functions between them:
//
//	decide: (world, command) -> events or a refusal
//	apply:  (world, event)   -> world
//
// What it may not do: read a clock, a random source, the environment, a file or
// a socket, use a float, or let the order of a Go map reach an event or the
// encoded world. Time, entropy and resolved digests travel in the command. Same
// log, same world, byte for byte: [World.Hash] says so, and every accepted
// decision of the past can be executed again and compared.
//
// Where to start reading: commit.go (what is stored), world.go (what is kept),
// registry.go (every command and event there is), then any concept's file
// (tenant.go, slot.go, allocation.go, ...). Each has the same order: state,
// commands, events, decide, apply.
package domain
