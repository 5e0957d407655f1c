// Package wipe erases the devices of a slot and proves it. The tenant owned them:
// every word of a device is a claim, and what counts is what can be seen from
// outside. So before an erasure [proof] canaries are planted and read back, after
// it the controller is reset and all of them must be gone, every byte is read where
// the method promises its value, and the drive must be the one it was: the same
// serial before, during and after, and equal to its baseline (firmware and its
// slots, LBA formats, namespaces, write protection, locks), which the host took at
// the first wipe.
//
// Every doubt fails closed: a device is [domain.WipeVerified] only at the end of
// the whole sequence in drive.go; all else is a failed result with a stable reason
// (reason.go). A crash at any point loses nothing: the next run follows a sanitize
// that is still in progress, and otherwise begins again.
//
// What cannot be seen from outside is not claimed: memory of a GPU without a probe,
// boot partitions, RPMB, telemetry and vendor logs of a drive, cells that no
// command reaches. Start with slot.go.
package wipe
