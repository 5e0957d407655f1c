// Package migrations holds the database's schema as embedded SQL, in goose's
// format and under goose's names. It holds nothing else.
//
// There are two sets. Database is what a database has once: which read model is
// the current one, and the role that reads. ReadModel is one generation of the
// read models; it is run with search_path set to a schema of its own (rm_1, rm_2,
// ...), so that a new generation can be built beside the one being read.
package migrations

import "embed"

//go:embed database/*.sql
var database embed.FS

//go:embed readmodel/*.sql
var readModel embed.FS

// A Set is one directory of migrations.
type Set struct {
	FS  embed.FS
	Dir string
}

// The sets.
var (
	Database  = Set{database, "database"}
	ReadModel = Set{readModel, "readmodel"}
)
