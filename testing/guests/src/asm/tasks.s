# Task switches (SDM 3A chapter 8).

# A TSS at `at`: entry, stack, flags 2, CR3 0, flat segments.
.macro task at, entry
movl $0, \at
movl $0, \at+0x1c
movl $(\entry - guest + LOAD), \at+0x20
movl $2, \at+0x24
movl $0x0a0a0a0a, \at+0x28
movl $0x0c0c0c0c, \at+0x2c
movl $0x0d0d0d0d, \at+0x30
movl $0x0b0b0b0b, \at+0x34
movl $(\at + 0x1000), \at+0x38
movl $0x05050505, \at+0x3c
movl $0x06060606, \at+0x40
movl $0x07070707, \at+0x44
movl $DATA32, \at+0x48
movl $CODE32, \at+0x4c
movl $DATA32, \at+0x50
movl $DATA32, \at+0x54
movl $DATA32, \at+0x58
movl $DATA32, \at+0x5c
movl $0, \at+0x60
movl $0x00680000, \at+0x64
.endm

program 32, "task/jmp", task_jmp
task TSS_B, 1f
movl $0x77777777, %edi
stc
ljmpl $TSS_B_SEL, $0x1234
2:
jnc 9f
expect_l "registers come back", %edi, 0x77777777
strl %eax
expect "TR is the first task's", TSS_SEL
expect_l "it is busy again", GDT+TSS_SEL+4, 0x8b18
expect_l "the other no longer", GDT+TSS_B_SEL+4, 0x8918
movl %cr0, %eax
andl $8, %eax
expect "TS is set", 8
pass
1:
movl %eax, V_A
expect_l "EAX of the TSS", V_A, 0x0a0a0a0a
expect_l "EBX of the TSS", %ebx, 0x0b0b0b0b
expect_l "ESP of the TSS", %esp, TSS_B+0x1000
expect_l "EDI of the TSS", %edi, 0x07070707
strl %eax
expect "TR", TSS_B_SEL
expect_l "the old task is not busy", GDT+TSS_SEL+4, 0x8918
expect_l "the new one is", GDT+TSS_B_SEL+4, 0x8b18
expect_l "EIP saved behind the JMP", TSS+0x20, 2b - guest + LOAD
expect_l "EDI saved", TSS+0x44, 0x77777777
expect_l "CS saved", TSS+0x4c, CODE32
expect_l "JMP makes no back link", TSS_B, 0
pushfl
popl %eax
andl $0x4000, %eax
expect "NT is clear", 0
ljmpl $TSS_SEL, $0
9:
unreachable "carry of the first task"
pass

program 32, "task/call-iret", task_call
task TSS_B, 1f
movl $0x77777777, %edi
lcalll $TSS_B_SEL, $0
2:
expect_l "registers come back", %edi, 0x77777777
expect_l "the first task stays busy", GDT+TSS_SEL+4, 0x8b18
expect_l "the nested one is free", GDT+TSS_B_SEL+4, 0x8918
expect_l "IRET saved the nested EIP", TSS_B+0x20, 3f - guest + LOAD
movl TSS_B+0x24, %eax
andl $0x4000, %eax
expect "and its NT as clear", 0
lcalll $TSS_B_SEL, $0
pass
1:
expect_l "the old task stays busy", GDT+TSS_SEL+4, 0x8b18
expect_l "the new one is busy", GDT+TSS_B_SEL+4, 0x8b18
expect_l "back link", TSS_B, TSS_SEL
pushfl
popl %eax
andl $0x4000, %eax
expect "NT is set", 0x4000
expect_l "return EIP saved", TSS+0x20, 2b - guest + LOAD
faults "CALL to a busy task", 13, TSS_SEL, "lcalll $TSS_SEL, $0"
iretl
3:
expect_b "the task goes on where it left", %bl, 0x0b
iretl

program 32, "task/gate", task_gate
task TSS_B, 1f
idt_gate 13, TSS_B_SEL, 0, 0x85
idt_gate 0x30, TSS_B_SEL, 0, 0xe5
movl $2, V_A
90:
movw $0x100, %ax
91:
movw %ax, %es
92:
movl $3, %esi
int $0x30
93:
expect_l "interrupt through a task gate returned", %esi, 3
pass
1:
popl %eax
expect "the error code is on the new task's stack", 0x100
expect_l "its ESP", %esp, TSS_B+0x1000
expect_l "the fault's EIP in the old TSS", TSS+0x20, 91b - guest + LOAD
expect_l "back link", TSS_B, TSS_SEL
movl $(92b - guest + LOAD), TSS+0x20
iretl
expect_l "an INT pushes nothing", %esp, TSS_B+0x1000
expect_l "INT's EIP", TSS+0x20, 93b - guest + LOAD
iretl

program 32, "task/faults", task_faults
task TSS_B, 1f
faults "TSS beyond the GDT", 13, 0x100, "ljmpl $0x100, $0"
descriptor TSS_B_SEL, 0x40000067, 0x00000918
faults "TSS not present", 11, TSS_B_SEL, "ljmpl $TSS_B_SEL, $0"
descriptor TSS_B_SEL, 0x40000066, 0x00008918
faults "TSS too short", 10, TSS_B_SEL, "ljmpl $TSS_B_SEL, $0"
descriptor TSS_B_SEL, 0x40000067, 0x00008b18
faults "TSS busy", 13, TSS_B_SEL, "ljmpl $TSS_B_SEL, $0"
strl %eax
expect "still the first task", TSS_SEL
descriptor TSS_B_SEL, 0x40000067, 0x00008918
pushfl
orl $0x4000, (%esp)
popfl
movl $TSS_C_SEL, TSS
faults "IRET with NT to a task that is not busy", 10, TSS_C_SEL, "iretl"
pushfl
andl $0xffffbfff, (%esp)
popfl
# faults of the new task: they happen in it
movl $TSS_SEL, TSS_B+0x5c
movl $(2f - guest + LOAD), V_HOOK
ljmpl $TSS_B_SEL, $0
1:
unreachable "a task with a TSS in GS"
2:
movl $0, V_HOOK
expect_l "#TS", V_VEC, 10
expect_l "for the selector of GS", V_ERR, TSS_SEL
strl %eax
expect "in the new task", TSS_B_SEL
expect_l "at its entry", V_RIP, 1b - guest + LOAD
pass

program 32, "task/ldt-and-cr3", task_ldt
task TSS_B, 1f
descriptor LDT_SEL, (LDT & 0xffff) << 16 | 0x3f, 0x00008200 | LDT >> 16
movl $0x0000ffff, LDT+8
movl $0x00cf9300, LDT+12
movl $LDT_SEL, TSS_B+0x60
movl $0xc, TSS_B+0x5c
movl $1, TSS_B+0x64          # T: debug trap on entry
movw $0x68, TSS_B+0x66
movl $(2f - guest + LOAD), V_HOOK
ljmpl $TSS_B_SEL, $0
1:
unreachable "T flag"
2:
movl $0, V_HOOK
expect_l "T raises #DB", V_VEC, 1
expect_l "before the first instruction", V_RIP, 1b - guest + LOAD
movl %db6, %eax
andl $0xe000, %eax
expect "DR6.BT", 0x8000
sldtl %eax
expect "LDTR", LDT_SEL
movw %gs, %ax
expect_w "a selector of the LDT", %ax, 0xc
pass

program 32, "task/16-bit", task_16
descriptor TSS_C_SEL, 0x8000002b, 0x00008118
movw $(1f - guest + LOAD), TSS_C+0x0e
movw $2, TSS_C+0x10
movw $0x1111, TSS_C+0x12
movw $0x2222, TSS_C+0x14
movw $0x3333, TSS_C+0x18
movw $0x7000, TSS_C+0x1a
movw $DATA32, TSS_C+0x22
movw $CODE32, TSS_C+0x24
movw $DATA16, TSS_C+0x26
movw $DATA32, TSS_C+0x28
movl $0x12345678, %edi
lcalll $TSS_C_SEL, $0
2:
expect_l "registers come back whole", %edi, 0x12345678
expect_w "its AX was saved", TSS_C+0x12, 0x7777
expect_l "the task is free", GDT+TSS_C_SEL+4, 0x00008118
descriptor TSS_C_SEL, 0x8000002a, 0x00008118
faults "too short", 10, TSS_C_SEL, "ljmpl $TSS_C_SEL, $0"
pass
1:
movl %eax, %esi
expect_w "AX", %si, 0x1111
expect_w "CX", %cx, 0x2222
expect_w "BX", %bx, 0x3333
expect_w "SP", %sp, 0x7000
expect_w "back link", TSS_C, TSS_SEL
expect_l "busy", GDT+TSS_C_SEL+4, 0x00008318
expect_l "the old task's EIP", TSS+0x20, 2b - guest + LOAD
movw $0x7777, %ax
iretl
