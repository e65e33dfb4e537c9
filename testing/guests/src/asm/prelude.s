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

# Fault handlers, one per vector, 16 bytes each.
.macro stub32 vec, has_error
.p2align 4
.ifeq \has_error
pushl $0
.endif
pushl $\vec
jmp common32
.endm
.macro stub64 vec, has_error
.p2align 4
.ifeq \has_error
pushq $0
.endif
pushq $\vec
jmp common64
.endm
.macro stub16 vec
.p2align 4
pushw $\vec
jmp common16
.endm

.pushsection .rodata.visor_guest_names, "a", @progbits
.globl visor_guest_names
visor_guest_names:
guest_names:
.popsection
.pushsection .rodata.visor_guest_programs, "a", @progbits
.globl visor_guest_programs
visor_guest_programs:
.popsection

.p2align 12
.globl visor_guest_image
visor_guest_image:
guest:
.quad 0                     # 00
.quad 0x00cf9b000000ffff    # 08 CODE32
.quad 0x00cf93000000ffff    # 10 DATA32
.quad 0x00af9b000000ffff    # 18 CODE64
.quad 0x00cf93000000ffff    # 20 data, behind CODE64 for SYSCALL
.quad 0                     # 28
.quad 0x00cffb000000ffff    # 30 UCODE32
.quad 0x00cff3000000ffff    # 38 UDATA
.quad 0x00affb000000ffff    # 40 UCODE64
.quad 0x00009b000000ffff    # 48 CODE16
.quad 0x000093000000ffff    # 50 DATA16
.quad 0x0000891800002067    # 58 TSS, I/O permission bitmap included
.quad 0                     # 60 its upper half
.quad 0x0000821f0000003f    # 68 LDT at 1F0000h, 8 entries
.quad 0                     # 70
.quad 0                     # 78
.quad 0x0000891840000067    # 80 TSS_B
.quad 0x0000891880000067    # 88 TSS_C
.fill 14, 8, 0              # 90 to F8
gdtr:
.word 0xff
.long GDT
idtr:
.word 0xfff
.long IDT
.long 0
ivtr:
.word 0x3ff
.long 0
.set GDTR, gdtr - guest + LOAD
.set IDTR, idtr - guest + LOAD
.set IVTR, ivtr - guest + LOAD
.set LDT, 0x1f0000

# Entry of every program, in real mode with CS 0: EBX is its address, ECX its mode.
.code16
.p2align 8
boot:
cli
xorw %ax, %ax
movw %ax, %ds
movw %ax, %es
movw %ax, %ss
movw $STACK16, %sp
cmpb $16, %cl
je boot16
lgdtl GDTR
lidtl IDTR
movl %cr0, %eax
orl $1, %eax
movl %eax, %cr0
ljmpl $CODE32, $(boot32 - guest + LOAD)

# Real mode: every vector to a stub.
boot16:
movw $0, %di
movl $(stubs16 - guest + LOAD), %eax
1:
movl %eax, (%di)
addw $4, %di
addl $16, %eax
cmpw $(4 * 64), %di
jne 1b
jmpw *%bx

common16:
pushw %bp
movw %sp, %bp
pushw %ax
movw 2(%bp), %ax
movw %ax, %cs:V_VEC
movw 4(%bp), %ax
movw %ax, %cs:V_RIP
movw 6(%bp), %ax
movw %ax, %cs:V_CS
movw 8(%bp), %ax
movw %ax, %cs:V_FLAGS
incw %cs:V_COUNT
movw %cs:V_FIXUP, %ax
testw %ax, %ax
jz 1f
movw $0, %cs:V_FIXUP
movw %ax, 4(%bp)
popw %ax
popw %bp
addw $2, %sp
iretw
1:
movzwl %cs:V_VEC, %eax
expect "unexpected exception: vector", 0xffff
movzwl %cs:V_RIP, %eax
expect "unexpected exception: ip", 0xffffffff
movb $1, %al
outb %al, $0xf4
cli
2: hlt
jmp 2b
.altmacro
.macro stubs16_all
.set i, 0
.rept 64
stub16 %i
.set i, i+1
.endr
.endm
.p2align 4
stubs16:
stubs16_all
.noaltmacro

.code32
boot32:
movw $DATA32, %ax
movw %ax, %ds
movw %ax, %es
movw %ax, %ss
movw %ax, %fs
movw %ax, %gs
movl $STACK0, %esp
cmpb $64, %cl
je boot64
# IDT: interrupt gates to the stubs, 80h open to ring 3
movl $IDT, %edi
movl $(stubs32 - guest + LOAD), %eax
1:
movw %ax, (%edi)
movw $CODE32, 2(%edi)
movw $0xee00, 4(%edi)
movl %eax, %edx
shrl $16, %edx
movw %dx, 6(%edi)
addl $8, %edi
addl $16, %eax
cmpl $(IDT + 8 * 64), %edi
jne 1b
idt_gate 0x80, CODE32, (back32 - guest + LOAD), 0xee
movl $STACK0_IN, TSS+4
movl $DATA32, TSS+8
movl $STACK1, TSS+12
movl $STACK2, TSS+20
movl $0x00680000, TSS+0x64
movw $0x2068, TSS+0x66       # no I/O permission bitmap within the limit
movw $TSS_SEL, %ax
ltr %ax
jmp *%ebx

# The stack: EAX DS [EAX] vec err eip cs eflags (esp ss)
common32:
pushl %ds
pushl %eax
movw $DATA32, %ax
movw %ax, %ds
movl 8(%esp), %eax
movl %eax, V_VEC
movl 12(%esp), %eax
movl %eax, V_ERR
movl 16(%esp), %eax
movl %eax, V_RIP
movl 20(%esp), %eax
movl %eax, V_CS
movl 24(%esp), %eax
movl %eax, V_FLAGS
leal 28(%esp), %eax
movl %eax, V_SP
movl %cr2, %eax
movl %eax, V_CR2
incl V_COUNT
cmpl $0, V_HOOK
jne 3f
movl V_FIXUP, %eax
testl %eax, %eax
jz 1f
movl $0, V_FIXUP
movl %eax, 16(%esp)
popl %eax
popl %ds
addl $8, %esp
iretl
1:
movl V_VEC, %eax
expect "unexpected exception: vector", 0xffffffff
movl V_ERR, %eax
expect "unexpected exception: error code", 0xffffffff
movl V_RIP, %eax
expect "unexpected exception: rip", 0xffffffff
movl V_CR2, %eax
expect "unexpected exception: cr2", 0xffffffff
movb $1, %al
outb %al, $0xf4
cli
2: hlt
jmp 2b
3:
popl %eax
popl %ds
jmpl *%cs:V_HOOK

# INT 80h: goes on behind it in ring 0.
back32:
popl %eax
movl $STACK0, %esp
pushl %eax
movw $DATA32, %ax
movw %ax, %ss
movw %ax, %ds
movw %ax, %es
ret

# Long mode: 4 GiB identity mapping in 2 MiB pages, everything open to ring 3.
boot64:
movl $(TABLES + 0x1007), TABLES
movl $(TABLES + 0x2007), TABLES+0x1000
movl $(TABLES + 0x3007), TABLES+0x1008
movl $(TABLES + 0x4007), TABLES+0x1010
movl $(TABLES + 0x5007), TABLES+0x1018
movl $(TABLES + 0x2000), %edi
movl $0x87, %eax
1:
movl %eax, (%edi)
addl $8, %edi
addl $0x200000, %eax
jnc 1b
movl %cr4, %eax
orl $0x20, %eax
movl %eax, %cr4
movl $TABLES, %eax
movl %eax, %cr3
movl $0xc0000080, %ecx
rdmsr
orl $0x100, %eax
wrmsr
movl %cr0, %eax
orl $0x80000000, %eax
movl %eax, %cr0
ljmpl $CODE64, $(long_start - guest + LOAD)
.code64
long_start:
movl %ebx, %ebx
movl $STACK0, %esp
movl $IDT, %edi
movl $(stubs64 - guest + LOAD), %eax
1:
movw %ax, (%rdi)
movw $CODE64, 2(%rdi)
movw $0xee00, 4(%rdi)
movl %eax, %edx
shrl $16, %edx
movl %edx, 6(%rdi)
movl $0, 10(%rdi)
addl $16, %edi
addl $16, %eax
cmpl $(IDT + 16 * 64), %edi
jne 1b
movl $((back64 - guest + LOAD) & 0xffff | CODE64 << 16), IDT+0x800
movl $((back64 - guest + LOAD) & 0xffff0000 | 0xee00), IDT+0x804
movl $0, IDT+0x808
lidtq IDTR
movq $STACK0_IN, TSS+4
movw $0x2068, TSS+0x66
movw $TSS_SEL, %ax
ltr %ax
xorl %eax, %eax
movw %ax, %fs
movw %ax, %gs
jmpq *%rbx

# The stack: RAX vec err rip cs rflags rsp ss
common64:
pushq %rax
movq 8(%rsp), %rax
movl %eax, V_VEC
movq 16(%rsp), %rax
movl %eax, V_ERR
movq 24(%rsp), %rax
movq %rax, V_RIP
movq 32(%rsp), %rax
movq %rax, V_CS
movq 40(%rsp), %rax
movq %rax, V_FLAGS
movq 48(%rsp), %rax
movq %rax, V_SP
movq %cr2, %rax
movq %rax, V_CR2
incl V_COUNT
cmpq $0, V_HOOK
jne 3f
movq V_FIXUP, %rax
testq %rax, %rax
jz 1f
movq $0, V_FIXUP
movq %rax, 24(%rsp)
popq %rax
addq $16, %rsp
iretq
1:
movl V_VEC, %eax
expect "unexpected exception: vector", 0xffffffff
movl V_ERR, %eax
expect "unexpected exception: error code", 0xffffffff
movl V_RIP, %eax
expect "unexpected exception: rip", 0xffffffff
movl V_CR2, %eax
expect "unexpected exception: cr2", 0xffffffff
movb $1, %al
outb %al, $0xf4
cli
2: hlt
jmp 2b
3:
popq %rax
jmpq *V_HOOK

back64:
popq %rax
movw $DATA32, %sp
movw %sp, %ss
movl $STACK0, %esp
jmpq *%rax

.altmacro
.macro stubs_all kind
.set i, 0
.rept 64
.if (i == 8) || ((i >= 10) && (i <= 14)) || (i == 17)
\kind %i, 1
.else
\kind %i, 0
.endif
.set i, i+1
.endr
.endm
.code32
.p2align 4
stubs32:
stubs_all stub32
.code64
.p2align 4
stubs64:
stubs_all stub64
.noaltmacro
