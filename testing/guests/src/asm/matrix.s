# The page-permission matrix (SDM 3A §4.6, §4.7). The table is made by the host (src/paging.rs); the guest walks it.
# Ring 0 runs from supervisor pages at their own addresses, ring 3 from a user alias at ALIAS; the page under test is at TESTED.
#
# A case, 64 bytes at CASES + 64 × n: +0 PML4E, +8 PDPTE, +16 PDE, +24 PTE, +32 CR4 bits, +36 CR0.WP, +40 EFER.NXE,
# +44 RFLAGS.AC, +48 ring, +52 kind (0 load, 1 store, 2 fetch, 3 read-modify-write, 4 ends the table).
# A result, 16 bytes at RESULTS + 16 × n: vector + 1 or 0, error code, A and D bits of PTE (0-1) and PDE (2-3), CR2 wrong.

.set CASES, 0x400000
.set RESULTS, 0xc00000
.set ALIAS, 0x40000000
.set TESTED, 0x8000000000

program 64, "drive/paging-matrix", mx_start, "nx smep smap"
# supervisor identity mapping of 16 MiB, alias for ring 3, tables for the page under test
movl $8, %ecx
movl $(TABLES + 0x2000), %edi
1:
andl $0xfffffffb, (%rdi)
addl $8, %edi
decl %ecx
jnz 1b
movl $0x87, TABLES+0x3000
movl $(TABLES + 0x11007), TABLES+8
movq %cr3, %rax
movq %rax, %cr3
idt_gate64 0x80, (mx_done - guest + LOAD), 0xee
movq $(mx_fault - guest + LOAD), %rax
movq %rax, V_HOOK
# what a fetch finds: INT 80h
movw $0x80cd, DATA+0x10
movl $CASES, %r15d
movl $RESULTS, %r14d
movq $TESTED+0x10, %r13
mx_case:
cmpl $4, 52(%r15)
je mx_end
movq (%r15), %rax
movq %rax, TABLES+8
movq 8(%r15), %rax
movq %rax, TABLES+0x11000
movq 16(%r15), %rax
movq %rax, TABLES+0x12000
movq 24(%r15), %rax
movq %rax, TABLES+0x13000
movl $0xc0000080, %ecx
rdmsr
andl $0xfffff7ff, %eax
orl 40(%r15), %eax
wrmsr
movq %cr0, %rax
andl $0xfffeffff, %eax
orl 36(%r15), %eax
movq %rax, %cr0
movl 32(%r15), %eax
orl $0x20, %eax
movq %rax, %cr4
movq %cr3, %rax
movq %rax, %cr3
invlpg (%r13)
movl $-1, (%r14)
movl $0, 12(%r14)
xorl %eax, %eax
movw $0x80cd, %ax            # a store writes what is there
leaq mx_user(%rip), %rbx
cmpl $3, 48(%r15)
je 1f
leaq mx_supervisor(%rip), %rbx
cmpl $0, 44(%r15)
je 2f
pushfq
orq $0x40000, (%rsp)
popfq
2:
movl 52(%r15), %ecx
jmpq *%rbx
1:
addq $ALIAS, %rbx
movl 52(%r15), %ecx
pushq $UDATA
pushq $STACK3
movl 44(%r15), %edx
orl $0x3002, %edx
pushq %rdx
pushq $UCODE64
pushq %rbx
iretq
# the access itself, at either ring
mx_supervisor:
mx_user:
cmpl $1, %ecx
je 1f
cmpl $2, %ecx
je 2f
cmpl $3, %ecx
je 3f
movw (%r13), %ax
int $0x80
1: movw %ax, (%r13)
int $0x80
2: jmpq *%r13
3: lock orw %ax, (%r13)
int $0x80
mx_done:
movl $0, (%r14)
movl $0, 4(%r14)
jmp mx_collect
# the stack: vec err rip cs rflags rsp ss
mx_fault:
movl (%rsp), %eax
incl %eax
movl %eax, (%r14)
movl 8(%rsp), %eax
movl %eax, 4(%r14)
movq %cr2, %rax
cmpq %rax, %r13
je mx_collect
movl $1, 12(%r14)
mx_collect:
movl $STACK0, %esp
movw $DATA32, %ax
movw %ax, %ss
pushq $2
popfq
movl TABLES+0x13000, %eax
shrl $5, %eax
andl $3, %eax
movl TABLES+0x12000, %ecx
shrl $5, %ecx
andl $3, %ecx
leal (%rax,%rcx,4), %eax
movl %eax, 8(%r14)
addl $64, %r15d
addl $16, %r14d
jmp mx_case
mx_end:
movl %r14d, %eax
outl %eax, $0x80
pass
