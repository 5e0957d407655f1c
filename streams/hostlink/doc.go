// Package hostlink is a host's side of the streams: it receives its own placement,
// reports what happened, and asks for images and user data, with a host's rights
// and no more. It never links the NATS server.
//
// A link survives everything the network does: it connects when it can, goes on
// after a restart of the control plane, and gives the newest placement again after
// every interruption. What it cannot send it says so at once: reports wait in the
// host's own journal, not here.
//
// Where to start reading: link.go.
package hostlink
