# What every guest program stands on: memory map, reporting, fault capture, mode entry.
#
# All programs live in one image that is loaded at LOAD; `guest` is its first byte. Absolute addresses are written as
# `label - guest + LOAD`, or A_label where the label was made with `label`.
#
# A check is three OUTs: what was found to 90h, what was expected to 94h, where its name is to 98h; so it works in every
# mode and at every ring that may do I/O, and needs only EAX.

.set LOAD, 0x8000
# variables, reachable in every mode
.set V_VEC, 0x600       # the last exception: vector, error code, RIP, CS, RFLAGS, stack pointer before it, CR2
.set V_ERR, 0x604
.set V_RIP, 0x608
.set V_CS, 0x610
.set V_FLAGS, 0x618
.set V_CR2, 0x620
.set V_COUNT, 0x628     # exceptions so far
.set V_FIXUP, 0x630     # where to go on, once
.set V_HOOK, 0x638      # a handler of the program's own, instead of all that
.set V_SP, 0x640
.set V_A, 0x648         # scratch of the programs
.set V_B, 0x650
.set V_C, 0x658
.set V_D, 0x660
.set IDT, 0x1000
.set GDT, LOAD
.set STACK16, 0x7c00
.set TABLES, 0x100000   # paging structures
.set TSS, 0x180000
.set TSS_B, 0x184000
.set TSS_C, 0x188000
.set STACK0, 0x1a0000   # tops of stacks, by ring; STACK0_IN is where SS0:ESP0 of the TSS points
.set STACK0_IN, 0x198000
.set STACK1, 0x1b0000
.set STACK2, 0x1c0000
.set STACK3, 0x1d0000
.set DATA, 0x200000     # 2 MiB aligned, free for programs up to RAM_END
.set RAM_END, 0x1000000
.set MMIO, 0xd0000000   # a latch: loads give what was stored
.set APIC, 0xfee00000
# host services
.set P_HOST, 0xa0       # a command; its operands are latched at A4h, A8h, ACh
.set H_MSI, 1           # message [A8] to address [A4]
.set H_INTR, 2          # raise INTR; acknowledge with vector [A4], which lowers it
.set H_NMI, 3
.set H_DMA, 4           # store dword [A8] at physical [A4]
.set H_STOP, 5         # stop this CPU here, if the scenario wants that
.set H_LATER, 0x80      # the same in [AC] milliseconds, from another thread
# the computation of drive/compute-*: rounds of xorshift32 from 1, and their result
.set STEPS, 60000
.set COMPUTED, 0xbd46179c
# selectors
.set CODE32, 0x08
.set DATA32, 0x10
.set CODE64, 0x18
.set UCODE32, 0x33
.set UDATA, 0x3b
.set UCODE64, 0x43
.set CODE16, 0x48
.set DATA16, 0x50
.set TSS_SEL, 0x58
.set LDT_SEL, 0x68
.set TSS_B_SEL, 0x80
.set TSS_C_SEL, 0x88
.set FREE, 0x90         # descriptors from here to F8h belong to the programs

# A label with an absolute address: A_name.
.macro label name
\name:
.set A_\name, \name - guest + LOAD
.endm

# Enters a program into the directory. mode: 16, 32 or 64; needs: CPU features, space separated.
.macro program mode, name, entry, needs=""
.pushsection .rodata.visor_guest_programs, "a", @progbits
.long \entry - guest + LOAD, \mode
.asciz "\name"
.asciz "\needs"
.popsection
.p2align 4
.code\mode
label \entry
.endm

# EAX must be `want`.
.macro expect name, want
.pushsection .rodata.visor_guest_names, "a", @progbits
70: .asciz "\name"
.popsection
outl %eax, $0x90
movl $(\want), %eax
outl %eax, $0x94
movl $(70b - guest_names), %eax
outl %eax, $0x98
.endm

# A register or memory operand must be `want` (32 bits).
.macro expect_l name, got, want
movl \got, %eax
expect "\name", \want
.endm
# The same for 16 bits.
.macro expect_w name, got, want
movzwl \got, %eax
expect "\name", \want
.endm
# The same for 8 bits.
.macro expect_b name, got, want
movzbl \got, %eax
expect "\name", \want
.endm
# 64 bits of a register or memory operand, in long mode; the wanted value as high and low half.
.macro expect_q name, got, hi, lo
movq \got, %rax
expect "\name (low)", \lo
movq \got, %rax
shrq $32, %rax
expect "\name (high)", \hi
.endm

# This place must not be reached.
.macro unreachable name
xorl %eax, %eax
expect "\name: not reached", 1
.endm

# Ends the program; the engine may stop some instructions later. Interrupts must be off, or harmless.
.macro pass
movb $0, %al
outb %al, $0xf4
69: jmp 69b
.endm

# The instruction must fault with `vec`, `err`, itself as RIP. `before` runs first. Clobbers EAX afterwards.
.macro faults name, vec, err, insn, before=""
movl $(78f - guest + LOAD), V_FIXUP
movl $-1, V_VEC
\before
77:
\insn
78:
movl V_VEC, %eax
expect "\name: vector", \vec
movl V_ERR, %eax
expect "\name: error code", \err
movl V_RIP, %eax
expect "\name: rip", 77b - guest + LOAD
.endm

# The same in real mode, where there are no error codes.
.macro faults16 name, vec, insn, before=""
movw $(78f - guest + LOAD), V_FIXUP
movw $-1, V_VEC
\before
77:
\insn
78:
movzwl V_VEC, %eax
expect "\name: vector", \vec
movzwl V_RIP, %eax
expect "\name: ip", 77b - guest + LOAD
.endm

# The instruction must trap with `vec`: RIP is that of the next one.
.macro traps name, vec, err, insn
movl $(78f - guest + LOAD), V_FIXUP
movl $-1, V_VEC
\insn
78:
movl V_VEC, %eax
expect "\name: vector", \vec
movl V_ERR, %eax
expect "\name: error code", \err
movl V_RIP, %eax
expect "\name: rip", 78b - guest + LOAD
.endm

# The instruction must not fault.
.macro works name, insn
movl $(78f - guest + LOAD), V_FIXUP
movl $-1, V_VEC
\insn
78:
movl V_VEC, %eax
expect "\name: no fault", 0xffffffff
movl $0, V_FIXUP
.endm

# Writes a descriptor: the two doublewords.
.macro descriptor sel, lo, hi
movl $(\lo), GDT+(\sel & 0xfff8)
movl $(\hi), GDT+(\sel & 0xfff8)+4
.endm
# A 32-bit call gate (type C), trap gate or task gate: selector, offset (below 64 KiB or any), type byte, parameters.
.macro gate sel, target, offset, type, params=0
movl $((\target << 16) | ((\offset) & 0xffff)), GDT+(\sel & 0xfff8)
movl $(((\offset) & 0xffff0000) | (\type << 8) | \params), GDT+(\sel & 0xfff8)+4
.endm
# Entry `vec` of the 32-bit IDT.
.macro idt_gate vec, target, offset, type
movl $((\target << 16) | ((\offset) & 0xffff)), IDT+\vec*8
movl $(((\offset) & 0xffff0000) | (\type << 8)), IDT+\vec*8+4
.endm

# 32-bit: to ring 3 at the next instruction, with IOPL 3. Clobbers EAX.
.macro ring3_32 flags=0x3002
pushl $UDATA
pushl $STACK3
pushl $(\flags)
pushl $UCODE32
pushl $(79f - guest + LOAD)
movw $UDATA, %ax
movw %ax, %ds
movw %ax, %es
iretl
79:
.endm
# Back to ring 0 at the next instruction, in either mode, with a fresh stack. Clobbers EAX (RAX).
.macro ring0
int $0x80
.endm
# 64-bit: to ring 3 at the next instruction. Clobbers RAX.
.macro ring3_64 flags=0x3002
pushq $UDATA
pushq $STACK3
pushq $(\flags)
pushq $UCODE64
pushq $(79f - guest + LOAD)
iretq
79:
.endm

.macro host command, a=0, b=0, c=0
movl $(\a), %eax
outl %eax, $0xa4
movl $(\b), %eax
outl %eax, $0xa8
movl $(\c), %eax
outl %eax, $0xac
movl $(\command), %eax
outl %eax, $P_HOST
.endm
