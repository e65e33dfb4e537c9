# Virtual-8086 mode (SDM 3A chapter 21.2).

# Enters V86 mode at 16-bit code `entry` (below 64 KiB, CS 0), SS:SP 0:7C00h.
.macro enter_v86 entry, flags
pushl $0
pushl $0
pushl $0x1111
pushl $0x2222
pushl $0
pushl $STACK16
pushl $(\flags)
pushl $0
pushl $(\entry - guest + LOAD)
iretl
.endm
# A monitor's hook: the next exception goes to label `at`, in ring 0.
.macro monitor at
movl $(\at - guest + LOAD), V_HOOK
.endm

program 32, "v86/entry", v86_entry
movw $0x68, TSS+0x66         # I/O in V86 mode always asks the bitmap, which is all zeros
monitor 2f
enter_v86 1f, 0x00023002
.code16
1:
movw %cs, %ax
expect_w "CS", %ax, 0
movw %ds, %ax
expect_w "DS from the frame", %ax, 0x1111
movw %es, %ax
expect_w "ES from the frame", %ax, 0x2222
expect_w "SP", %sp, STACK16
movw $0x1234, %ax
movw %ax, %ds
movb $0x42, %ds:0
cli
sti
pushfw
popw %bx
cli
andw $0x0200, %bx
expect_w "IOPL 3: STI works", %bx, 0x200
movw $0, %ax
movw %ax, %ds
91:
int $0x20
92:
.code32
2:
# ring 0: the frame has vec err ip cs flags sp ss es ds fs gs
movl $DATA32, %eax
movw %ax, %ds
expect_l "INT with IOPL 3 goes to ring 0", (%esp), 0x20
expect_l "EIP", 8(%esp), 92b - guest + LOAD
expect_l "CS", 12(%esp), 0
movl 16(%esp), %eax
andl $0x23200, %eax
expect "EFLAGS has VM", 0x23000
expect_l "ESP", 20(%esp), STACK16
expect_l "SS", 24(%esp), 0
expect_l "ES", 28(%esp), 0x2222
expect_l "DS", 32(%esp), 0
leal 44(%esp), %ebx
expect_l "the frame ends at ESP0", %ebx, STACK0_IN
movw %es, %ax
expect_w "ES is null in the monitor", %ax, 0
movw %gs, %ax
expect_w "GS is null in the monitor", %ax, 0
expect_b "the store was made through a real-mode segment", 0x12340, 0x42
pass

program 32, "v86/iopl-sensitive", v86_iopl
# at IOPL 0 each of these is #GP(0); the monitor collects and steps over
movl $0, V_A
monitor 2f

movw $0x68, TSS+0x66
movl $0, TSS+0x68+0x10
movl $0, TSS+0x68+0x14
movb $1, TSS+0x68+0x40
enter_v86 1f, 0x00020002
.code16
1:
cli
nop
sti
nop
pushfw
popfw
nop
int $0x21
iretw
nop
pushfl
popfl
lock incw %ax
hlt
movl %cr0, %eax
movw $0x201, %dx
inb %dx, %al
movw $0x200, %dx
inb %dx, %al
int3
3:
.code32
2:
movl $DATA32, %eax
movw %ax, %ds
cmpl $3, (%esp)
je 4f
cmpl $6, (%esp)
je 5f
cmpl $13, (%esp)
jne 6f
cmpl $0, 4(%esp)
jne 6f
5:
# remember which, by offset, and step over it
movl 8(%esp), %ecx
subl $(1b - guest + LOAD), %ecx
btsl %ecx, V_A
movl 8(%esp), %edx
movzbl (%edx), %eax
movl $1, %ecx
cmpb $0xcd, %al
jne 7f
incl %ecx
7:
cmpb $0x66, %al
jne 7f
incl %ecx
7:
cmpb $0xf0, %al
jne 7f
incl %ecx
7:
cmpb $0x0f, %al
jne 7f
addl $2, %ecx
7:
addl %ecx, 8(%esp)
addl $8, %esp
iretl
6:
unreachable "another exception in V86 mode"
pass
4:
expect_l "int3 with DPL 3", 8(%esp), 3b - guest + LOAD
expect_l "instructions that faulted", V_A, 0x1006aab5
pass

program 32, "v86/no-protected-instructions", v86_ud
movl $0, V_A
monitor 2f
enter_v86 1f, 0x00023002
.code16
1:
.byte 0x0f, 0x00, 0xd8       # ltr
.byte 0x0f, 0x02, 0xc0       # lar
.byte 0x63, 0xc0, 0x90       # arpl
int3
.code32
2:
movl $DATA32, %eax
movw %ax, %ds
cmpl $3, (%esp)
je 3f
expect_l "#UD", (%esp), 6
incl V_A
addl $3, 8(%esp)
addl $8, %esp
iretl
3:
expect_l "LTR, LAR and ARPL are undefined", V_A, 3
pass

program 32, "v86/vme", v86_vme, "vme"
# virtual interrupt flag and redirection of INT n (SDM 3A §20.3, §20.4): map at the 32 bytes before the I/O map
movl %cr4, %eax
orl $1, %eax
movl %eax, %cr4
movw $0x88, TSS+0x66
movb $4, TSS+0x68+4          # INT 22h is not redirected
movw $(3f - guest + LOAD), 4*0x21
movw $0, 4*0x21+2
monitor 2f
enter_v86 1f, 0x00020002
.code16
1:
xorw %ax, %ax
movw %ax, %ds
pushfw
popw %bx
andw $0x3200, %bx
expect_w "IOPL shows as 3, VIF as IF", %bx, 0x3000
sti
pushfw
popw %bx
andw $0x0200, %bx
expect_w "STI sets VIF", %bx, 0x0200
int $0x21
91:
pushfw
popw %bx
andw $0x0200, %bx
expect_w "IRET restores VIF", %bx, 0x0200
92: int $0x22
unreachable "INT 22h"
3:
popw %bx
expect_w "the IP on the V86 stack", %bx, 91b - guest + LOAD
pushw %bx
pushfw
popw %bx
andw $0x0200, %bx
expect_w "VIF is clear in the handler", %bx, 0
iretw
.code32
2:
movl $DATA32, %eax
movw %ax, %ds
expect_l "INT 22h is #GP", (%esp), 13
expect_l "its EIP", 8(%esp), 92b - guest + LOAD
movl 16(%esp), %eax
andl $0x80200, %eax
expect "VIF is set, IF is not", 0x80000
movl $STACK0, %esp
monitor 4f
enter_v86 5f, 0x00120002
.code16
5: sti
unreachable "STI with VIP"
.code32
4:
movl $DATA32, %eax
movw %ax, %ds
expect_l "STI with VIP is #GP", (%esp), 13
expect_l "at itself", 8(%esp), 5b - guest + LOAD
pass
