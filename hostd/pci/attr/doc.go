// Package attr reads the small text files in which a kernel describes a machine
// (sysfs, procfs) as if somebody hostile had written them: nothing outside the
// tree's root is reached whatever symbolic links say, no file blocks, none is
// read beyond 64 KiB, no directory beyond its bound. It interprets nothing.
//
// Start reading at [Tree].
package attr
