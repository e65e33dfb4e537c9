# Programs that the host drives; see src/scenario.rs. The 16-bit ones are in real.s.

program 32, "drive/triple-fault-32", dr_triple32
lidtl 1f - guest + LOAD
int3
unreachable "no IDT"
pass
1: .word 0
.long 0

program 64, "drive/triple-fault-64", dr_triple64
movl $0, TABLES+0x2000
movq %cr3, %rax
movq %rax, %cr3
unreachable "no mapping"
pass

program 64, "drive/halt", dr_halt
movl $APIC, %ebp
movl $0x1ff, 0xf0(%rbp)
movl $0x400, 0x360(%rbp)
idt_gate64 2, (1f - guest + LOAD), 0x8e
cli
hlt
expect_l "the NMI was taken", V_A, 1
pass
1:
incl V_A
iretq

program 64, "drive/loop", dr_loop
1: jmp 1b

program 64, "drive/loop-of-loops", dr_loops
1:
movl $3, %ecx
2: decl %ecx
jnz 2b
call 3f
jmp 1b
3: ret

program 64, "drive/halt-open", dr_halt_open
1:
sti
hlt
jmp 1b

program 64, "drive/rep-loop", dr_rep
1:
movl $DATA, %edi
movl $0xc00000, %ecx
rep stosb
jmp 1b

program 64, "drive/io-loop", dr_io
1:
movw $0x200, %dx
outb %al, %dx
inb %dx, %al
jmp 1b

# 20,000 turns of six instructions, two of which a translator leaves to an interpreter
program 64, "drive/counted", dr_counted
movl $20000, %r12d
1:
str %eax
addl $1, %ebx
sldt %ecx
addl $1, %edx
decl %r12d
jnz 1b
pass

# A computation whose every step depends on the one before; registers, memory, stack, SSE and x87 take part.
.macro mix reg, tmp
movl \reg, \tmp
shll $13, \tmp
xorl \tmp, \reg
movl \reg, \tmp
shrl $17, \tmp
xorl \tmp, \reg
movl \reg, \tmp
shll $5, \tmp
xorl \tmp, \reg
.endm

program 32, "drive/compute-32", dr_compute32
movl $1, %ebx
movl $STEPS, %esi
xorl %edi, %edi
1:
mix %ebx, %eax
pushl %ebx
call 2f
popl %eax
addl %eax, %edi
movl %ebx, %edx
andl $0xfff, %edx
addl %edi, DATA(,%edx,4)
testl $0x7ff, %esi
jnz 9f
movl $H_STOP, %eax
outl %eax, $P_HOST
9:
decl %esi
jnz 1b
movl %edi, %eax
outl %eax, $0x80
movl DATA+0x40, %eax
outl %eax, $0x80
movl %ebx, %eax
expect "xorshift", COMPUTED
pass
2:
roll $3, 4(%esp)
ret

program 64, "drive/compute-64", dr_compute64, "sse2"
movq %cr4, %rax
orl $0x600, %eax
movq %rax, %cr4
fninit
movl $1, %ebx
movl $STEPS, %r12d
xorl %r13d, %r13d
pxor %xmm5, %xmm5
fldz
1:
mix %ebx, %eax
movd %ebx, %xmm0
paddq %xmm0, %xmm5
movl %ebx, V_A
fildl V_A
faddp
movq %rbx, %r9
imulq $0x1234567, %r9, %r9
addq %r9, %r13
movl $10, %eax
movw $0x200, %dx
testl $0x3ff, %r12d
jnz 2f
outb %al, %dx
inb %dx, %al
addq %rax, %r13
2:
testl $0x7ff, %r12d
jnz 9f
movl $H_STOP, %eax
outl %eax, $P_HOST
9:
decl %r12d
jnz 1b
movq %xmm5, %rax
outl %eax, $0x80
fstpl V_A
movl V_A+4, %eax
outl %eax, $0x80
movl %r13d, %eax
outl %eax, $0x80
movl %ebx, %eax
expect "xorshift", COMPUTED
pass

# Into noise; the handlers of the prelude report and halt, so these send all exceptions there too.
program 32, "drive/random-32", dr_random32
movl $0x210000, V_HOOK
movl $0x200000, %eax
jmp *%eax
program 64, "drive/random-64", dr_random64
movq $0x210000, V_HOOK
movl $0x200000, %eax
jmp *%rax
