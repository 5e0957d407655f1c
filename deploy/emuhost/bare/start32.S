/* The direct start: a multiboot 1 kernel, entered in 32-bit protected mode with
   paging off (Multiboot Specification 0.6.96, section 3.2). */
.section .head, "a"
.align 4
.long 0x1badb002, 0, -0x1badb002

.text
.globl _start, entry_timer, entry_beat, entry_ignore, entry_fault
_start:
  cli
  mov $stack_end, %esp
  lgdt descriptors_at
  ljmp $8, $1f
1: mov $16, %ax
  mov %ax, %ds
  mov %ax, %es
  mov %ax, %ss
  xor %eax, %eax
  testl $4, (%ebx)        /* is there a command line? */
  jz 2f
  mov 16(%ebx), %eax
3: cmpb $' ', (%eax)      /* its first word is the kernel's own path */
  jbe 2f
  inc %eax
  jmp 3b
2: push %eax
  push $how
  call begin
entry_timer:
  pusha
  cld
  call tick
  popa
  iret
entry_beat:
  pusha
  cld
  call beat
  popa
entry_ignore:
  iret
entry_fault:
  call fault

.section .rodata
how: .asciz "direct"
.align 8
descriptors: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
descriptors_at: .word 23
  .long descriptors
.bss
.align 16
.skip 65536
stack_end:
.section .note.GNU-stack, "", @progbits
