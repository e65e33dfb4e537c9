# System instructions again and again, as translated code executes them by itself, and what it must leave to others.

program 64, "inline/syscall", in_syscall, "syscall"
movl $0xc0000080, %ecx
rdmsr
orl $1, %eax
wrmsr
wrmsr_q 0xc0000081, 0x00300018, 0
wrmsr_q 0xc0000082, 0, (2f - guest + LOAD)
wrmsr_q 0xc0000084, 0, 0x47700
ring3_64 0x3202
xorl %ebx, %ebx
xorl %ebp, %ebp
movl $1000, %r12d
movl $0x89abcdef, %r13d
1:
addl $0x1234567, %r13d       # flags of all kinds
syscall
90:
pushfq
popq %rax
xorl %r11d, %eax
orl %eax, %ebp
decl %r12d
jnz 1b
expect_l "every call came back", %ebx, 1000
expect_l "with R11 in RFLAGS", %ebp, 0
ring0
pass
2:
movq %rsp, %r9
movq $STACK0, %rsp
pushfq
popq %r8
movq %r9, %rsp
# FMASK clears IF, TF, DF, IOPL and AC, and no status flag
movl %r11d, %eax
xorl %r8d, %eax
andl $0x4ffff, %eax
cmpl $0x3200, %eax
jne 3f
cmpl $(90b - guest + LOAD), %ecx
jne 3f
movw %cs, %ax
cmpw $CODE64, %ax
jne 3f
incl %ebx
3:
movw $0x20, %ax
movw %ax, %ss
sysretq

program 64, "inline/divide", in_divide
xorl %ebx, %ebx
xorl %r8d, %r8d
movl $1000, %r12d
1:
movq $0x123456789abcdef0, %rax
movl %r12d, %edx
leaq 7(%r12), %rsi
divq %rsi
addq %rax, %rbx
addq %rdx, %r8
movl $-1000000007, %eax
cltd
movl %r12d, %edi
negl %edi
idivl %edi
addq %rax, %rbx
addq %rdx, %r8
movw $-3000, %ax
cwtd
movl %r12d, V_A
idivw V_A
movzwl %ax, %eax
addq %rax, %rbx
movl $5, %eax                # the dividend does not fit the lower half
movl $1, %edx
idivl %r12d
decl %r12d
cmpl $3, %r12d
ja 1b
expect_l "quotients", %ebx, 0xf044e07d
expect_l "remainders", %r8d, 0x2273
movl $3, %ebp
2:
faults "by zero", 0, 0, "divl %ecx", "xorl %ecx, %ecx; xorl %edx, %edx; movl $7, %eax"
faults "a quotient of 33 bits", 0, 0, "divl %ecx", "movl $2, %ecx; movl $2, %edx"
faults "a quotient of 65 bits", 0, 0, "divq %rcx", "movl $2, %ecx; movl $2, %edx"
faults "minus 2^31 by minus 1", 0, 0, "idivl %ecx", "movl $-1, %ecx; movl $0x80000000, %eax; cltd"
faults "by zero, signed", 0, 0, "idivw V_A", "movw $0, V_A; movl $7, %eax; cwtd"
works "minus 2^31 + 1 by minus 1", "movl $-1, %ecx; movl $0x80000001, %eax; cltd; idivl %ecx"
decl %ebp
jnz 2b
pass

program 64, "inline/bit-strings", in_bits
movl $DATA+0x1000, %edi
movl $100, %ebp
1:
movl $0, (%rdi)
movl $0, -4(%rdi)
movl $0, 0x2004(%rdi)
movq $-1, %rax
btsl %eax, (%rdi)            # bit 31 of the doubleword before
jc 9f
movq $(0x2004*8+3), %rax
lock btsq %rax, (%rdi)
jc 9f
btq %rax, (%rdi)
jnc 9f
btcl %eax, (%rdi)
jnc 9f
movl $7, %ecx
btsq %rcx, (%rdi)
btrl %ecx, (%rdi)
jnc 9f
decl %ebp
jnz 1b
9:
expect_l "a hundred rounds", %ebp, 0
expect_l "a negative bit number", -4(%rdi), 0x80000000
expect_l "a far one", 0x2004(%rdi), 0
expect_l "a near one", (%rdi), 0
pass

program 64, "inline/flags", in_flags
movl $200, %r12d
xorl %ebx, %ebx
1:
std
pushfq
popq %rax
cld
pushfq
popq %rcx
xorl %ecx, %eax
cmpl $0x400, %eax
jne 2f
movl $0x80000000, %eax
addl %eax, %eax              # OF, CF, ZF, PF
pushfq
popq %rax
andl $0x8d5, %eax
cmpl $0x845, %eax
jne 2f
pushq $0x8d7
popfq
jno 2f
jns 2f
jnc 2f
jnz 2f
pushfq
popq %rax
cmpl $0x8d7, %eax
jne 2f
pushq $2
popfq
incl %ebx
2:
decl %r12d
jnz 1b
expect_l "two hundred rounds", %ebx, 200
movl $50, %r12d
3:
cli
sti
nop
cli
pushfq
popq %rax
testl $0x200, %eax
jnz 4f
decl %r12d
jnz 3b
4:
expect_l "CLI and STI", %r12d, 0
ring3_64 0x0202
xorl %ebx, %ebx
movl $20, %r12d
5:
movl $-1, V_VEC
movl $(6f - guest + LOAD), V_FIXUP
cli
6:
cmpl $13, V_VEC
jne 8f
movl $-1, V_VEC
movl $(7f - guest + LOAD), V_FIXUP
sti
7:
cmpl $13, V_VEC
jne 8f
pushq $2                     # POPF leaves IF and IOPL alone
popfq
pushfq
popq %rax
andl $0x3200, %eax
cmpl $0x200, %eax
jne 8f
pushq $0x3202
popfq
pushfq
popq %rax
andl $0x3200, %eax
cmpl $0x200, %eax
jne 8f
incl %ebx
8:
decl %r12d
jnz 5b
ring0
expect_l "twenty rounds at ring 3", %ebx, 20
pass

program 64, "inline/time", in_time
xorl %ebx, %ebx
movl $100, %r12d
rdtsc
movl %eax, %esi
movl %edx, %edi
1:
stc
rdtsc
jnc 2f
movl %eax, %ecx
movl %edx, %ebp
subl %esi, %eax
sbbl %edi, %edx
jc 2f
movl %ecx, %esi
movl %ebp, %edi
incl %ebx
2:
decl %r12d
jnz 1b
expect_l "never backwards, and no flag touched", %ebx, 100
movq %cr4, %rax
orl $4, %eax
movq %rax, %cr4
works "TSD leaves ring 0 alone", "rdtsc"
ring3_64 0x3002
movl $20, %r12d
3:
faults "TSD at ring 3", 13, 0, "rdtsc"
decl %r12d
jnz 3b
ring0
movq %cr4, %rax
andl $~4, %eax
movq %rax, %cr4
pass

program 64, "inline/swapgs", in_swapgs
wrmsr_q 0xc0000101, 0, DATA
wrmsr_q 0xc0000102, 0xffff8000, 0x1000
movl $1, DATA+8
movl $101, %r12d
1:
swapgs
decl %r12d
jnz 1b
movl $0xc0000101, %ecx
rdmsr
expect "GS base, low", 0x1000
movl $0xc0000101, %ecx
rdmsr
movl %edx, %eax
expect "GS base, high", 0xffff8000
swapgs
expect_l "an access through it", %gs:8, 1
movl %gs, %eax
movl %ds, %ecx
expect_l "DS", %ecx, DATA32
pass

# What is pushed lies in two pages, and those who follow rely on the stack's check. The stack is elsewhere each time.
program 64, "inline/push", in_push
movq %rsp, %rdi
movl $0x1234567, DATA+0xffe
movl $0x89abcdef, DATA+0x1002
xorl %ebx, %ebx
movl $100, %ecx
1:
subq $40, %rsp
pushq DATA+0xffe
movq (%rsp), %rax
popq %rdx
cmpq %rax, %rdx
jne 2f
subq DATA+0xffe, %rax
jne 2f
incl %ebx
2:
decl %ecx
jnz 1b
movq %rdi, %rsp
expect_l "all of them", %ebx, 100
pass
