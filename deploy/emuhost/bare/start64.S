/* The UEFI application: a PE32+ header by hand, so that no other linker is needed
   (Microsoft PE Format; UEFI Specification 2.10, section 2.1.1). File offsets are
   memory offsets, and the code runs wherever it is loaded. */
.section .head, "a"
start:
  .ascii "MZ"
  .skip 58
  .long 0x40
  .ascii "PE\0\0"
  .word 0x8664, 1               /* x86-64, one section */
  .long 0, 0, 0
  .word optional_end - optional
  .word 0x0206                  /* executable, no line numbers, no debug */
optional:
  .word 0x20b
  .byte 2, 0
  .long _code_bytes, 0, 0
  .long _entry
  .long 0x1000                  /* base of code */
  .quad 0                       /* image base: any */
  .long 0x1000, 0x1000          /* alignment in memory and file */
  .word 0, 0, 0, 0, 0, 0
  .long 0
  .long _image_bytes
  .long 0x1000                  /* headers */
  .long 0
  .word 10, 0                   /* EFI application */
  .quad 0, 0, 0, 0
  .long 0, 6
  .quad 0, 0, 0, 0, 0, 0
optional_end:
  .ascii ".all\0\0\0\0"
  .long _memory_bytes, 0x1000, _code_bytes, 0x1000
  .long 0, 0
  .word 0, 0
  .long 0xe0000020              /* code; execute, read, write */

.text
.globl efi_start, entry_timer, entry_beat, entry_ignore, entry_fault, on_own_stack
efi_start:                      /* (image handle, system table) by the Microsoft convention */
  sub $40, %rsp
  mov %rcx, %rdi
  mov %rdx, %rsi
  call leave_firmware           /* does not come back */
on_own_stack:                   /* (function) */
  cli
  cld
  lea stack_end(%rip), %rsp
  call *%rdi
.macro handler name, function
\name:
  push %rax
  push %rcx
  push %rdx
  push %rsi
  push %rdi
  push %r8
  push %r9
  push %r10
  push %r11
  cld
  call \function
  pop %r11
  pop %r10
  pop %r9
  pop %r8
  pop %rdi
  pop %rsi
  pop %rdx
  pop %rcx
  pop %rax
  iretq
.endm
handler entry_timer, tick
handler entry_beat, beat
entry_ignore:
  iretq
entry_fault:
  call fault
.bss
.align 16
.skip 65536
stack_end:
.section .note.GNU-stack, "", @progbits
