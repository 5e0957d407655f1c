// Package nvme speaks to an NVMe controller: admin commands through the kernel's
// ioctl, blocks with O_DIRECT, and the pages a controller answers with as typed
// values. Rules and layouts are those of the NVM Express Base Specification 2.0 and
// the NVM Command Set Specification 1.0; each type names its structure there.
//
// What a controller says may have been shaped by the tenant who owned its admin
// queue an hour ago, or by a fault: a page that is short or makes no sense is an
// error with the reason, never a panic and never a default.
//
// [Controller] is the seam: [Device] is the real one, nvmefake one in memory. The
// package decides nothing about erasing; that is hostd/wipe. Start with
// controller.go.
package nvme
