// Package disk is the drive of a slot as a file: a sparse raw file of the drive's
// size, which a VM sees as an NVMe drive. It says what is on a drive ([Identify])
// and erases it with proof ([Wipe]). It may not know what a drive is for.
//
// What is proved here is that every byte of the file reads as zero, through the
// file system, after the cache was dropped. A real drive has blocks no host can
// address; erasing those is the business of its sanitize and format commands,
// which a file does not have.
package disk
