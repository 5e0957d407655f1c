// Package image puts boot images onto drives and makes cloud-init seeds. It reads
// foreign bytes (a tenant's image) and so trusts none: the format is taken from
// the header here and told to qemu-img, never guessed by it, and an image that
// refers to another file is refused, because a backing file or an external data
// file would read any file of the host into the guest.
//
// The digest of an image is checked by whoever downloads it, before this package
// sees it. Start reading at [Inspect], then [Write], then
// [Seed].
package image
