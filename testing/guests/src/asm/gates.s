# Call gates, 16-bit gates and the stacks of inner rings (SDM 3A §5.8).

program 32, "protected/gates", pm_gates
# A call gate to ring 0 with two parameters
gate FREE, CODE32, (1f - guest + LOAD), 0xec, 2
ring3_32
pushl $0x11111111
pushl $0x22222222
stc
90:
lcalll $(FREE | 3), $0
91:
jnc 3f
expect_l "RET 8 released the parameters of the caller", %esp, STACK3
movw %ds, %ax
expect_w "DS of DPL 0 was nulled on return", %ax, 0
movw %es, %ax
expect_w "ES of DPL 3 stays", %ax, UDATA
movw $UDATA, %ax
movw %ax, %ds
ring0
pass
1:
expect_l "new stack", %esp, STACK0_IN-24
expect_l "return EIP", (%esp), 91b - guest + LOAD
expect_l "return CS", 4(%esp), UCODE32
expect_l "parameter", 8(%esp), 0x22222222
expect_l "parameter", 12(%esp), 0x11111111
expect_l "old ESP", 16(%esp), STACK3-8
expect_l "old SS", 20(%esp), UDATA
xorl %eax, %eax
movw %ss, %ax
expect "SS of the TSS", DATA32
movw $DATA32, %ax
movw %ax, %ds
stc
lretl $8
3:
unreachable "carry lost"
pass

program 32, "protected/gate-faults", pm_gate_faults
gate FREE, CODE32, 0x1234, 0x8c, 0
gate FREE+8, CODE32, 0x1234, 0x6c, 0
gate FREE+16, DATA32, 0x1234, 0xec, 0
gate FREE+24, 0, 0x1234, 0xec, 0
gate FREE+32, CODE32, (1f - guest + LOAD), 0xec, 0
descriptor FREE+40, 0xffff, 0x00cf9f00      # conforming, DPL 0
ring3_32
faults "DPL 0 gate from ring 3", 13, FREE, "lcalll $(FREE), $0"
faults "RPL 3 does not matter for it", 13, FREE, "ljmpl $(FREE|3), $0"
faults "gate not present", 11, FREE+8, "lcalll $(FREE+8), $0"
faults "gate to data", 13, DATA32, "lcalll $(FREE+16), $0"
faults "gate to null", 13, 0, "lcalll $(FREE+24), $0"
faults "JMP through a gate cannot raise privilege", 13, CODE32, "ljmpl $(FREE+32), $0"
ljmpl $(FREE+40), $(2f - guest + LOAD)
2:
xorl %eax, %eax
movw %cs, %ax
expect "conforming code runs at the caller's ring", FREE+40+3
xorl %eax, %eax
movw %ss, %ax
expect "on the caller's stack", UDATA
ring0
# ring 0 may not go down by CALL, nor to a gate whose target is less privileged
gate FREE, UCODE32, 0x1234, 0xec, 0
faults "CALL to an outer ring", 13, UCODE32 & 0xfff8, "lcalll $FREE, $0"
lcalll $(FREE+32), $0
jmp 3f
1:
expect_l "a gate to the same ring keeps the stack", %esp, STACK0-8
lretl
3:
pass

program 32, "protected/inner-stack-faults", pm_inner_stack
gate FREE, CODE32, (9f - guest + LOAD), 0xec, 0
# #TS and #SS come through task-free gates, on a good stack of ring 1 to which the handlers belong
descriptor FREE+8, 0xffff, 0x00cfbb00       # ring 1 code
descriptor FREE+16, 0xffff, 0x00cfb300      # ring 1 data
movl $(FREE+16+1), TSS+16
movl $STACK1, TSS+12
idt_gate 10, (FREE+9), (2f - guest + LOAD), 0xee
idt_gate 12, (FREE+9), (2f - guest + LOAD), 0xee
idt_gate 11, (FREE+9), (2f - guest + LOAD), 0xee
movl $(UDATA), TSS+8
ring3_32
1: lcalll $FREE, $0
2:
movl %eax, %ebx
popl %eax
expect "SS0 of DPL 3: #TS with the selector", UDATA & 0xfff8
popl %eax
expect "its EIP", 1b - guest + LOAD
popl %eax
expect "its CS", UCODE32
expect_l "the stack of ring 1", %esp, STACK1-12
pass
9:
unreachable "gate with a bad stack"
pass

program 32, "protected/gate-16", pm_gate_16
gate FREE, CODE32, (1f - guest + LOAD), 0xe4, 1
movl $0x30000, TSS+4
ring3_32
movl $0x40000, %esp
pushw $0xabcd
lcalll $(FREE | 3), $0
90:
1:
expect_l "five words on the inner stack", %esp, 0x30000-10
expect_w "IP", (%esp), 90b - guest + LOAD
expect_w "CS", 2(%esp), UCODE32
expect_w "the parameter", 4(%esp), 0xabcd
expect_w "SP", 6(%esp), 0xfffe
expect_w "SS", 8(%esp), UDATA
pass

program 32, "protected/interrupt-gates-16", pm_int_16
idt_gate 0x30, CODE32, (1f - guest + LOAD), 0xe6
idt_gate 0x31, CODE32, (2f - guest + LOAD), 0xef
pushl $0x0202
popfl
int $0x30
90:
pushfl
popl %ebx
cli
andl $0x200, %ebx
expect_l "the flags come back", %ebx, 0x200
sti
int $0x31
cli
pass
1:
expect_l "three words", %esp, STACK0-6
expect_w "IP", (%esp), 90b - guest + LOAD
expect_w "CS", 2(%esp), CODE32
pushfl
popl %eax
andl $0x200, %eax
expect "an interrupt gate clears IF", 0
iretw
2:
pushfl
popl %eax
andl $0x200, %eax
expect "a trap gate does not", 0x200
iretl
