// Package pglocal runs a Postgres of its own for development and tests: it finds
// the installed programs, makes a data directory, starts the server on a private
// unix socket, and stops it again. Production uses a database of its own and only
// passes its URL through.
//
// What it may not do: listen on the network, touch a data directory that it did
// not make, or download anything.
//
// Where to start reading: [Start].
package pglocal
