// Package api is the REST interface of a site: routes, authentication, OpenAPI,
// problems, the event stream.
//
// A request passes the edge (edge.go: request id, deadline, bounded body), is
// authenticated against the folded world (auth.go), and then either becomes a
// command for the decision loop (command.go) or a question to the read model
// (read.go). What a command's answer says is built from the events that followed,
// so a repeat answers the same bytes and nobody waits for Postgres. Every refusal
// is written in one place (problem.go).
//
// What it may not do: decide anything, know SQL or JetStream (what it needs of
// them are interfaces in options.go), keep a secret, or tell one tenant anything
// about another: what is not yours is answered like what is not there.
//
// Start reading at options.go, then route.go; a concept's file (allocation.go,
// slot.go, ...) has its JSON, its routes and its answers.
package api
