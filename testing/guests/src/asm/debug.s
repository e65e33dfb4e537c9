# Single-step, breakpoints, DR6 and DR7 (SDM 3B chapter 18).

# A #DB hook: keeps EIP in DATA[n] and DR6 in DATA+400h[n], n in V_D; clears DR6. V_C: bits to set in the saved EFLAGS,
# V_B: those to keep.
.macro debug_hook label
label \label
pushl %eax
pushl %ebx
movl V_D, %ebx
movl 16(%esp), %eax
movl %eax, DATA(,%ebx,4)
movl %db6, %eax
movl %eax, DATA+0x400(,%ebx,4)
movl %db7, %eax
movl %eax, DATA+0x800(,%ebx,4)
xorl %eax, %eax
movl %eax, %db6
incl V_D
movl V_C, %eax
orl %eax, 24(%esp)
movl V_B, %eax
andl %eax, 24(%esp)
popl %ebx
popl %eax
addl $8, %esp
iretl
.endm
.macro debug_start
movl $0, V_D
movl $0, V_C
movl $-1, V_B
movl $A_db_hook, V_HOOK
.endm
.macro tf_on
pushfl
orl $0x100, (%esp)
popfl
.endm
.macro tf_off
pushfl
andl $0xfffffeff, (%esp)
popfl
.endm
.macro stepped name, n, at
expect_l "\name", DATA+4*\n, \at - guest + LOAD
.endm

.code32
debug_hook db_hook

program 32, "debug/single-step", dbg_step
debug_start
tf_on
91: nop
92: movl $3, %ecx
93: nop
movl V_D, %edx
94:
tf_off
expect_l "POPF takes effect after the next instruction", DATA, 92b - guest + LOAD
stepped "second", 1, 93b
expect_l "two instructions before the read", %edx, 3
expect_l "DR6.BS", DATA+0x400, 0xffff4ff0
debug_start
movl $3, %ecx
movl $DATA+0x1000, %esi
movl $DATA+0x1100, %edi
cld
tf_on
91: rep movsb
92: nop
93:
tf_off
stepped "REP: after the first iteration", 0, 91b
stepped "REP: after the second", 1, 91b
stepped "REP: after the last", 2, 92b
debug_start
movw %ss, %ax
tf_on
91: movw %ax, %ss
92: nop
93: nop
94:
tf_off
stepped "MOV SS delays the trap over the next instruction", 0, 93b
debug_start
tf_on
91: pushl %ss
popl %ss
92: nop
93: nop
tf_off
expect_l "PUSH SS traps", DATA, 92b - guest + LOAD - 1
stepped "POP SS delays", 1, 93b
debug_start
movl $0, V_A
idt_gate 0x2f, CODE32, (95f - guest + LOAD), 0xee
tf_on
nop
91: int $0x2f
92: nop
93:
tf_off
expect_l "TF is clear in the handler", V_A, 0
stepped "INT itself does not trap; the instruction behind it does", 1, 93b
pass
95:
pushfl
popl V_A
andl $0x100, V_A
iretl

program 32, "debug/faults-and-step", dbg_step_fault
# a faulting instruction does not single-step; the flags pushed have TF
debug_start
movl $(1f - guest + LOAD), V_HOOK
tf_on
90: ud2
1:
expect_l "#UD wins", (%esp), 6
movl 16(%esp), %eax
andl $0x100, %eax
expect "TF is in the frame", 0x100
movl $STACK0, %esp
movl $A_db_hook, V_HOOK
# INT1
debug_start
91: .byte 0xf1
92:
stepped "ICEBP is a trap", 0, 92b
expect_l "that leaves DR6 alone", DATA+0x400, 0xffff0ff0
pass

program 32, "debug/exec-breakpoint", dbg_exec
debug_start
movl $0x10000, V_C
movl $(91f - guest + LOAD), %eax
movl %eax, %db0
movl $0x402, %eax
movl %eax, %db7
movl $0, %ecx
91: incl %ecx
92: nop
expect_l "it came once", V_D, 1
stepped "a fault: before the instruction", 0, 91b
expect_l "RF lets the instruction run once", %ecx, 1
expect_l "DR6.B0", DATA+0x400, 0xffff0ff1
debug_start
movl $0x10000, V_C
movl $3, %ecx
jmp 3f
.p2align 4
3:
movl $(94f - guest + LOAD), %eax
movl %eax, %db0
94: loop 94b
expect_l "each pass through a loop stops", V_D, 3
# POPF clears RF, IRET sets it
debug_start
movl $(95f - guest + LOAD), %eax
movl %eax, %db0
pushl $0x10002
pushl $CODE32
pushl $(95f - guest + LOAD)
iretl
95: nop
expect_l "IRET with RF passes the breakpoint", V_D, 0
movl $0x10000, V_C
movl $0x400, %eax
movl %eax, %db7
debug_start
jmp 95f
95: nop
expect_l "a disabled breakpoint is silent", V_D, 0
pass

program 32, "debug/data-breakpoint", dbg_data
debug_start
movl $DATA+0x1000, %eax
movl %eax, %db1
movl $0x00d00408, %eax     # G1, write, 4 bytes
movl %eax, %db7
movl %eax, DATA+0x1000
91:
nop
expect_l "a write traps", V_D, 1
stepped "behind the instruction", 0, 91b
expect_l "DR6.B1", DATA+0x400, 0xffff0ff2
movl DATA+0x1000, %eax
expect_l "a read does not", V_D, 1
movb %al, DATA+0x1003
expect_l "its last byte does", V_D, 2
movb %al, DATA+0x1004
expect_l "the byte behind does not", V_D, 2
movl %eax, DATA+0xffe
expect_l "an overlap does", V_D, 3
movl $0x00f00408, %eax     # read or write
movl %eax, %db7
movl DATA+0x1000, %eax
expect_l "a read does now", V_D, 4
incl DATA+0x1000
expect_l "a read-modify-write once", V_D, 5
pushl DATA+0x1000
expect_l "as a source of PUSH", V_D, 6
popl %eax
movl $3, %ecx
movl $DATA+0x1000, %edi
91: rep stosb
92:
nop
expect_l "in REP STOS: after each iteration", V_D, 9
stepped "at the instruction", 6, 91b
stepped "at last behind it", 8, 92b
movl $STACK0-4, %eax
movl %eax, %db1
pushl %eax
92:
nop
expect_l "PUSH", V_D, 10
xorl %eax, %eax
movl %eax, %db7
pass

program 32, "debug/io-breakpoint", dbg_io, "de"
debug_start
movl %cr4, %eax
orl $8, %eax
movl %eax, %cr4
movl $0x204, %eax
movl %eax, %db2
movl $0x06000420, %eax     # G2, I/O, 2 bytes
movl %eax, %db7
movw $0x204, %dx
outb %al, %dx
91:
nop
expect_l "OUT traps", V_D, 1
stepped "behind it", 0, 91b
expect_l "DR6.B2", DATA+0x400, 0xffff0ff4
inb %dx, %al
nop
expect_l "IN traps", V_D, 2
movw $0x203, %dx
inw %dx, %ax
nop
expect_l "an overlap traps", V_D, 3
movw $0x206, %dx
inb %dx, %al
nop
expect_l "its neighbour does not", V_D, 3
movl $0, V_HOOK
faults "DR4 with CR4.DE", 6, 0, "movl %db4, %eax"
pass

program 32, "debug/registers", dbg_regs
movl %db6, %eax
expect "DR6 after reset", 0xffff0ff0
movl %db7, %eax
expect "DR7 after reset", 0x400
movl $0, %eax
movl %eax, %db6
movl %db6, %eax
expect "fixed bits of DR6", 0xffff0ff0
movl %eax, %db7
movl $0, %eax
movl %eax, %db7
movl %db7, %eax
expect "fixed bits of DR7", 0x400
movl $0x12345678, %eax
movl %eax, %db3
movl %db3, %eax
expect "DR3", 0x12345678
movl $0x401, %eax
movl %eax, %db5
movl %db7, %eax
expect "DR5 is DR7 without CR4.DE", 0x401
# general detect
debug_start
movl $0x2400, %eax
movl %eax, %db7
91: movl %db0, %eax
92:
expect_l "GD faults once", V_D, 1
stepped "before the instruction", 0, 91b
expect_l "DR6.BD", DATA+0x400, 0xffff2ff0
expect_l "GD is clear in the handler", DATA+0x800, 0x400
pass
