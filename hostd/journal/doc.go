// Package journal is what the host daemon remembers across crashes and power loss:
// the reports that the log has not recorded yet, the facts already reported, and
// the fence below which no placement is executed.
//
// A [Journal] is one append-only file of records (length, CRC-32C, payload), each
// made durable before the call returns. A record holds a signed report, or changes
// to the remembered facts, or both: they become true together or not at all. What
// the log acknowledged is dropped when the file is rewritten.
//
// A journal's id is made when it is created and its reports are numbered 1, 2, 3
// and on. If anything of it was lost (a torn tail, a number that the log knows and
// the file does not), a number could be given twice: so the journal begins anew
// under another id and gives what is pending new numbers. A repeat is harmless, a
// number with two meanings is not.
//
// A [Fence] keeps the highest (epoch, generation) seen and its digest.
//
// What it may not do: interpret a fact or a report.
package journal
