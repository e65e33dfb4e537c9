# Interrupts: local APIC, 8259 line, NMI, shadows, HLT (SDM 3A chapters 6 and 11).

# A 64-bit handler at vector `vec` that counts in V_A, traces nothing, and ends the interrupt at the local APIC.
.macro counting_handler vec, label, eoi=1
idt_gate64 \vec, (\label - guest + LOAD), 0x8e
.endm
.macro apic_on
movl $APIC, %ebp
movl $0x1ff, 0xf0(%rbp)
movl $0, 0x80(%rbp)
.endm
.macro settle n=200000
movl $\n, %ecx
67: decl %ecx
jnz 67b
.endm

# Interrupts are taken in here.
.macro window
sti
settle 5000
cli
.endm

.code64
.p2align 4
label count_eoi
incl V_A
movl $0, 0xb0(%rbp)
iretq
.p2align 4
label count_plain
incl V_A
iretq

program 64, "irq/msi", irq_msi
apic_on
counting_handler 0x31, count_eoi
counting_handler 0x32, count_eoi
host H_MSI, APIC, 0x31
expect_l "not taken with IF clear", V_A, 0
movl 0x210(%rbp), %eax
andl $0x20000, %eax
expect "but pending in IRR", 0x20000
window
expect_l "taken with IF set", V_A, 1
movl 0x210(%rbp), %eax
andl $0x20000, %eax
expect "IRR is clear", 0
movl 0x110(%rbp), %eax
expect "ISR is clear", 0
movl $0x40, 0x80(%rbp)
host H_MSI, APIC, 0x32
window
expect_l "TPR holds class 3 back", V_A, 1
movl $0, 0x80(%rbp)
window
expect_l "and lets it go", V_A, 2
host H_MSI, APIC, 0x31
host H_MSI, APIC, 0x31
window
expect_l "two of a vector that waits are one", V_A, 3
host H_MSI, APIC+0x5000, 0x31
window
expect_l "not for this destination", V_A, 3
pass

program 64, "irq/priority", irq_priority
apic_on
idt_gate64 0x31, (1f - guest + LOAD), 0x8e
idt_gate64 0x41, (2f - guest + LOAD), 0x8e
host H_MSI, APIC, 0x31
host H_MSI, APIC, 0x41
window
expect_l "the higher vector first", V_A, 0x4131
pass
1:
shll $8, V_A
orl $0x31, V_A
movl $0, 0xb0(%rbp)
iretq
2:
# a lower one that comes now waits for the EOI, even with IF set
sti
nop
nop
cli
shll $8, V_A
orl $0x41, V_A
movl $0, 0xb0(%rbp)
iretq

program 64, "irq/extint", irq_extint
apic_on
movl $0x700, 0x350(%rbp)      # LINT0: ExtINT
counting_handler 0x28, count_plain
host H_INTR, 0x28
expect_l "not with IF clear", V_A, 0
window
expect_l "acknowledged and taken", V_A, 1
movl 0x110(%rbp), %eax
expect "no ISR bit", 0
movl $0x10700, 0x350(%rbp)
pass

program 64, "irq/sti-shadow", irq_shadow
apic_on
idt_gate64 0x31, (1f - guest + LOAD), 0x8e
movl $0, V_B
host H_MSI, APIC, 0x31
sti
incl V_B
nop
cli
expect_l "one instruction runs behind STI", V_A, 1
movl $0, V_B
host H_MSI, APIC, 0x31
sti
cli
expect_l "STI, CLI: nothing is taken", V_B, 0
sti
incl V_B
cli
expect_l "now it is", V_A, 1
movl $0, V_B
movl $0, V_A
movw %ss, %bx
movw $99, V_A
host H_MSI, APIC, 0x31
pushq $0x202
movw %ss, %bx
popfq
incl V_B
cli
expect_l "POPF has no shadow", V_A, 0
sti
nop
movl $99, V_A
movl $0, V_B
movw %ss, %bx
cli
host H_MSI, APIC, 0x31
sti
movw %bx, %ss
incl V_B
nop
cli
expect_l "MOV SS behind STI keeps no second shadow", V_A, 0
pass
1:
pushq %rax
movl V_B, %eax
movl %eax, V_A
movl $0, 0xb0(%rbp)
popq %rax
iretq

program 64, "irq/hlt", irq_hlt
apic_on
counting_handler 0x31, count_eoi
host H_LATER+H_MSI, APIC, 0x31, 20
sti
hlt
90:
cli
expect_l "an MSI ends HLT", V_A, 1
host H_MSI, APIC, 0x31
sti
hlt
cli
expect_l "one that waits already too", V_A, 2
idt_gate64 2, (1f - guest + LOAD), 0x8e
movl $0x400, 0x360(%rbp)
host H_LATER+H_NMI, 0, 0, 20
cli
hlt
91:
expect_l "an NMI ends HLT with IF clear", V_B, 1
expect_q "its RIP is behind HLT", V_C, 0, 91b - guest + LOAD
pass
1:
incl V_B
pushq %rax
movq 8(%rsp), %rax
movq %rax, V_C
popq %rax
iretq

program 64, "irq/nmi", irq_nmi
apic_on
movl $0x400, 0x360(%rbp)      # LINT1: NMI
idt_gate64 2, (1f - guest + LOAD), 0x8e
movl $0, V_A
host H_NMI
settle 1000
expect_l "taken with IF clear", V_A, 2
expect_l "a second one waited for IRET", V_B, 1
pass
1:
incl V_A
cmpl $1, V_A
jne 2f
pushq %rax
pushq %rcx
host H_NMI
settle 1000
popq %rcx
popq %rax
movl V_A, %edx
movl %edx, V_B
2:
iretq

program 64, "irq/timer-one-shot", irq_timer
apic_on
counting_handler 0x40, count_eoi
movl $0xb, 0x3e0(%rbp)
movl $0x40, 0x320(%rbp)
movl $100000, 0x380(%rbp)
movl 0x390(%rbp), %ebx
cmpl $100000, %ebx
setbe %dl
expect_b "the current count is at most the initial", %dl, 1
sti
hlt
cli
expect_l "it ends HLT", V_A, 1
expect_l "the count is 0", 0x390(%rbp), 0
sti
settle
cli
expect_l "once", V_A, 1
movl $0x10040, 0x320(%rbp)
movl $1000, 0x380(%rbp)
sti
settle
cli
expect_l "masked", V_A, 1
movl $0x40, 0x320(%rbp)
movl $0x7fffffff, 0x380(%rbp)
movl 0x390(%rbp), %ebx
settle 10000
movl 0x390(%rbp), %ecx
cmpl %ecx, %ebx
seta %dl
expect_b "it counts down", %dl, 1
movl $0, 0x380(%rbp)
expect_l "writing 0 stops it", 0x390(%rbp), 0
pass

program 64, "irq/timer-periodic", irq_periodic
apic_on
counting_handler 0x40, count_eoi
movl $0xb, 0x3e0(%rbp)
movl $0x20040, 0x320(%rbp)
movl $1000000, 0x380(%rbp)
movl $5, %ebx
1:
sti
hlt
cli
decl %ebx
jnz 1b
movl $0x10040, 0x320(%rbp)
movl V_A, %eax
cmpl $5, %eax
setae %dl
expect_b "five or more", %dl, 1
pass

program 64, "irq/timer-deadline", irq_deadline, "tsc_deadline_timer"
apic_on
counting_handler 0x40, count_eoi
movl $0x40040, 0x320(%rbp)
mfence
movl $0x6e0, %ecx
rdtsc
addl $2000000, %eax
adcl $0, %edx
wrmsr
rdmsr
orl %eax, %edx
setnz %dl
expect_b "armed", %dl, 1
sti
hlt
cli
expect_l "it came", V_A, 1
movl $0x6e0, %ecx
rdmsr
expect "disarmed", 0
xorl %eax, %eax
xorl %edx, %edx
incl %eax
wrmsr
window
expect_l "a deadline in the past comes at once", V_A, 2
pass

program 64, "irq/self-ipi", irq_self
apic_on
counting_handler 0x50, count_eoi
movl $0x40050, 0x300(%rbp)
window
expect_l "shorthand self", V_A, 1
movl $0, 0x310(%rbp)
movl $0x4050, 0x300(%rbp)
window
expect_l "by physical id", V_A, 2
movl $0xc4050, 0x300(%rbp)
window
expect_l "all but self", V_A, 2
movl 0x300(%rbp), %eax
andl $0x1000, %eax
expect "delivery is done", 0
expect_l "the id", 0x20(%rbp), 0
movl 0x30(%rbp), %eax
andl $0xf0, %eax
expect "an integrated APIC", 0x10
pass

program 64, "irq/x2apic", irq_x2apic, "x2apic"
counting_handler 0x50, count_x2
movl $0x1b, %ecx
rdmsr
orl $0xc00, %eax
wrmsr
movl $0x80f, %ecx
movl $0x1ff, %eax
xorl %edx, %edx
wrmsr
movl $0x802, %ecx
rdmsr
expect "the id", 0
movl $0x83f, %ecx
movl $0x50, %eax
xorl %edx, %edx
wrmsr
window
expect_l "self IPI", V_A, 1
faults "a register that does not exist", 13, 0, "rdmsr", "movl $0x809, %ecx"
faults "reserved bits", 13, 0, "wrmsr", "movl $0x80b, %ecx; movl $1, %eax; xorl %edx, %edx"
faults "back to xAPIC in one step", 13, 0, "wrmsr", "movl $0x1b, %ecx; rdmsr; andl $0xfffffbff, %eax"
pass
label count_x2
pushq %rax
pushq %rcx
pushq %rdx
incl V_A
movl $0x80b, %ecx
xorl %eax, %eax
xorl %edx, %edx
wrmsr
popq %rdx
popq %rcx
popq %rax
iretq

program 64, "irq/rep-interruptible", irq_rep
# An interrupt comes between two iterations, RCX counting what is left (SDM 2B, REP). It may also fall on the instructions
# around the REP: then it is asked for once more.
apic_on
idt_gate64 0x31, (1f - guest + LOAD), 0x8e
movl $200, %ebx
90:
movl $0, V_A
host H_LATER+H_MSI, APIC, 0x31, 5
sti
91:
movl $DATA, %edi
movl $0x700000, %ecx
xorl %eax, %eax
cld
92:
rep stosb
cmpl $0, V_A
je 91b
cli
cmpl $1, V_B
je 93f
decl %ebx
jnz 90b
93:
expect_l "taken between iterations", V_B, 1
expect_l "RCX is 0 at the end", %ecx, 0
expect_q "RDI", %rdi, 0, DATA+0x700000
pass
1:
incl V_A
movl $0, 0xb0(%rbp)
cmpq $(92b - guest + LOAD), (%rsp)
jne 2f
testl %ecx, %ecx
jz 2f
cmpl $0x700000, %ecx
je 2f
movl $1, V_B
2:
iretq

program 64, "irq/level-eoi", irq_level
apic_on
counting_handler 0x61, count_eoi
host H_MSI, APIC, 0xc061
window
expect_l "taken", V_A, 1
movl 0x190+0x20(%rbp), %eax
andl $2, %eax
expect "TMR says level", 2
pass

program 64, "irq/destinations", irq_dest
apic_on
counting_handler 0x31, count_eoi
movl $0x04000000, 0xd0(%rbp)  # logical id 04h, flat
host H_MSI, APIC+0x4004, 0x31
window
expect_l "logical", V_A, 1
host H_MSI, APIC+0x3004, 0x31
window
expect_l "logical, of others", V_A, 1
host H_MSI, APIC+0x4004, 0x131
window
expect_l "lowest priority", V_A, 2
host H_MSI, APIC+0xff000, 0x31
window
expect_l "broadcast", V_A, 3
movl $0x0fffffff, 0xe0(%rbp)  # cluster
movl $0x21000000, 0xd0(%rbp)
host H_MSI, APIC+0x21004, 0x31
window
expect_l "cluster 2, member 1", V_A, 4
host H_MSI, APIC+0x11004, 0x31
window
expect_l "cluster 1", V_A, 4
# software-disabled: nothing fixed comes through
movl $0xff, 0xf0(%rbp)
host H_MSI, APIC, 0x31
movl $0x1ff, 0xf0(%rbp)
window
expect_l "disabled", V_A, 4
host H_MSI, APIC, 0x0f
expect_l "an illegal vector is recorded by nobody", V_A, 4
pass
