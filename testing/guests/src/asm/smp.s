# Two CPUs: start-up, IPIs, atomicity, code changed by the other one (SDM 3A §8.4, §8.1).
# The second CPU's real-mode trampoline is copied to 70000h; its program is at V_D.

.macro start_second program
movl $APIC, %ebp
movl $0x1ff, 0xf0(%rbp)
movq $(\program - guest + LOAD), %rax
movq %rax, V_D
movl $(A_ap_start), %esi
movl $0x70000, %edi
movl $(ap_end - ap_start), %ecx
cld
rep movsb
movl $0x1000000, 0x310(%rbp)
movl $0x4500, 0x300(%rbp)
settle 20000
movl $0x1000000, 0x310(%rbp)
movl $0x4670, 0x300(%rbp)
.endm
.macro wait_for var, value
66:
pause
cmpl $\value, \var
jne 66b
.endm

.code16
.p2align 4
label ap_start
cli
movw %cs, %ax
movw %ax, %ds
movw %ax, 0x6fe
xorw %ax, %ax
movw %ax, %ds
lgdtl GDTR
lidtl IDTR
movl $TABLES, %eax
movl %eax, %cr3
movl %cr4, %eax
orl $0x20, %eax
movl %eax, %cr4
movl $0xc0000080, %ecx
rdmsr
orl $0x100, %eax
wrmsr
movl $0x80000011, %eax
movl %eax, %cr0
ljmpl $CODE64, $(ap_long - guest + LOAD)
.code64
ap_long:
movl $DATA32, %eax
movw %ax, %ss
movw %ax, %ds
movw %ax, %es
movl $0x1f8000, %esp
jmpq *V_D
ap_end:

program 64, "smp/start", smp_start
movl $0, V_A
start_second 1f
wait_for V_A, 1
expect_l "CS of the trampoline", V_B, 0x7000
expect_l "its APIC id", V_C, 1
pass
1:
movzwl 0x706fe, %eax
movl %eax, V_B
movl $APIC, %ebp
movl 0x20(%rbp), %eax
shrl $24, %eax
movl %eax, V_C
movl $1, V_A
2: hlt
jmp 2b

program 64, "smp/ipi", smp_ipi
idt_gate64 0x51, (2f - guest + LOAD), 0x8e
idt_gate64 0x52, (3f - guest + LOAD), 0x8e
start_second 1f
wait_for V_A, 1
movl $100, %ebx
4:
movl V_B, %esi
movl $0x1000000, 0x310(%rbp)
movl $0x4051, 0x300(%rbp)
sti
5:
pause
cmpl V_B, %esi
je 5b
cli
decl %ebx
jnz 4b
expect_l "a hundred there", V_C, 100
expect_l "a hundred back", V_B, 100
pass
1:
movl $APIC, %ebp
movl $0x1ff, 0xf0(%rbp)
sti
movl $1, V_A
6: hlt
jmp 6b
2:
incl V_C
movl $0, 0xb0(%rbp)
movl $0, 0x310(%rbp)
movl $0x4052, 0x300(%rbp)
iretq
3:
incl V_B
movl $0, 0xb0(%rbp)
iretq

program 64, "smp/atomic", smp_atomic
.set ROUNDS, 20000
movl $0, DATA
movl $0, DATA+4
movq $0, DATA+8
movl $0, DATA+0x10
start_second 1f
call 2f
wait_for V_A, 1
expect_l "LOCK INC", DATA, 2*ROUNDS
expect_l "LOCK XADD", DATA+4, 2*ROUNDS
expect_l "LOCK CMPXCHG", DATA+8, 2*ROUNDS
expect_l "a lock made of XCHG", DATA+0x10, 2*ROUNDS
expect_l "LOCK ADD across cache lines", DATA+0x3e, 2*ROUNDS
expect_l "LOCK CMPXCHG8B", DATA+0x80, 2*ROUNDS
pass
1:
call 2f
movl $1, V_A
3: hlt
jmp 3b
2:
movl $ROUNDS, %esi
4:
lock incl DATA
movl $1, %eax
lock xaddl %eax, DATA+4
5:
movl DATA+8, %eax
leal 1(%rax), %ecx
lock cmpxchgl %ecx, DATA+8
jne 5b
6:
movl $1, %eax
xchgl %eax, DATA+0x20
testl %eax, %eax
jnz 6b
incl DATA+0x10
movl $0, DATA+0x20
lock addl $1, DATA+0x3e
movl DATA+0x80, %eax
movl DATA+0x84, %edx
7:
movl %eax, %ebx
addl $1, %ebx
movl %edx, %ecx
lock cmpxchg8b DATA+0x80
jne 7b
decl %esi
jnz 4b
ret

program 64, "smp/cross-modify", smp_modify
# the first CPU changes what the second executes, and waits for its answer each time
movl $0x000000b8, DATA
movw $0xc300, DATA+4
movl $0, V_B
start_second 1f
movl $1, %ebx
2:
movl %ebx, DATA+1
mfence
movl %ebx, V_B
3:
pause
cmpl V_C, %ebx
jne 3b
cmpl V_A, %ebx
jne 4f
incl %ebx
cmpl $2000, %ebx
jne 2b
expect_l "the second CPU saw every change", %ebx, 2000
pass
4:
movl V_A, %eax
expect "stale code on the second CPU", 0
pass
1:
movl $DATA, %edx
xorl %esi, %esi
5:
pause
cmpl V_B, %esi
je 5b
movl V_B, %esi
pushq %rdx
pushq %rsi
xorl %eax, %eax
cpuid
popq %rsi
popq %rdx
call *%rdx
movl %eax, V_A
movl %esi, V_C
jmp 5b

program 64, "smp/store-order", smp_order
# message passing: data before flag, always (SDM 3A §8.2.3.2)
movl $0, DATA
movl $0, DATA+0x1000
start_second 1f
movl $50000, %ecx
2:
incl DATA
incl DATA+0x1000
decl %ecx
jnz 2b
movl $1, V_B
wait_for V_A, 1
expect_l "the flag never ran ahead of the data", V_C, 0
pass
1:
3:
movl DATA+0x1000, %eax
movl DATA, %ebx
cmpl %eax, %ebx
jae 4f
incl V_C
4:
cmpl $1, V_B
jne 3b
movl $1, V_A
5: hlt
jmp 5b

program 64, "smp/init-resets", smp_init
start_second 1f
wait_for V_A, 1
movl $0x1000000, 0x310(%rbp)
movl $0x4500, 0x300(%rbp)
# once its thread has the host's CPU again
movl $10000, %r12d
3:
movl V_B, %ebx
settle 100000
cmpl V_B, %ebx
setz %dl
je 4f
decl %r12d
jnz 3b
4:
expect_b "INIT stops it", %dl, 1
movl $0, V_A
movl $0x1000000, 0x310(%rbp)
movl $0x4670, 0x300(%rbp)
wait_for V_A, 1
expect_l "it starts again", V_A, 1
pass
1:
movl $1, V_A
2:
incl V_B
jmp 2b

program 64, "smp/shootdown", smp_shootdown
# a TLB shootdown by IPI: behind the acknowledgement the second CPU must use the new page
idt_gate64 0x51, (2f - guest + LOAD), 0x8e
movl $(TABLES + 0x11007), TABLES+8
movl $(TABLES + 0x12007), TABLES+0x11000
movl $(TABLES + 0x13007), TABLES+0x12000
movl $(DATA + 7), TABLES+0x13000
movl $1, DATA
movl $2, DATA+0x1000
start_second 1f
wait_for V_A, 1
movl $200, %ebx
3:
xorl $0x1000, TABLES+0x13000
movl $0, V_B
movl $0x1000000, 0x310(%rbp)
movl $0x4051, 0x300(%rbp)
wait_for V_B, 1
movl V_C, %eax
movl TABLES+0x13000, %edx
shrl $12, %edx
andl $1, %edx
incl %edx
cmpl %edx, %eax
jne 4f
decl %ebx
jnz 3b
4:
expect_l "every round saw the new page", %ebx, 0
pass
1:
movl $APIC, %ebp
movl $0x1ff, 0xf0(%rbp)
movq $0x8000000000, %rdx
movl $1, V_A
sti
5:
movl (%rdx), %eax
jmp 5b
2:
pushq %rax
invlpg (%rdx)
movl (%rdx), %eax
movl %eax, V_C
movl $1, V_B
movl $0, 0xb0(%rbp)
popq %rax
iretq
