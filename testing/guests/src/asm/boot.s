# The start of the image: GDT, mode entry, and the fault handlers of every mode.
# A handler keeps what it sees in the V_ variables, then goes on at V_FIXUP, or jumps to V_HOOK with the frame in place.

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
