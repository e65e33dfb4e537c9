# Every exception: vector, error code, RIP (SDM 3A chapter 6).

program 32, "exception/faults", exc_faults
faults "#DE of DIV by zero", 0, 0, "divl %ecx", "xorl %ecx, %ecx"
movl $0x80000000, %eax
movl $0xffffffff, %edx
faults "#DE of IDIV overflow", 0, 0, "idivl %ecx", "movl $-1, %edx; movl $0x80000000, %eax; movl $-1, %ecx"
expect_l "operands survive", %edx, 0xffffffff
faults "#DE of AAM 0", 0, 0, "aam $0"
traps "#BP", 3, 0, "int3"
traps "INT 3 with two bytes", 3, 0, ".byte 0xcd, 3"
traps "#OF", 4, 0, "movb $0x7f, %al; incb %al; into"
works "INTO without overflow", "xorl %eax, %eax; into"
movl $10, V_A
movl $20, V_A+4
faults "#BR below", 5, 0, "bound %eax, V_A", "movl $9, %eax"
faults "#BR above", 5, 0, "bound %eax, V_A", "movl $21, %eax"
works "BOUND at the limits", "movl $20, %eax; bound %eax, V_A; movl $10, %eax; bound %eax, V_A"
faults "#UD of UD2", 6, 0, "ud2"
faults "#UD of UD1", 6, 0, ".byte 0x0f, 0xb9, 0xc0"
faults "#UD of UD0", 6, 0, ".byte 0x0f, 0xff, 0xc0"
faults "#UD of LOCK with a register", 6, 0, ".byte 0xf0, 0x01, 0xc0"
faults "#UD of LOCK MOV", 6, 0, ".byte 0xf0, 0x89, 0x05, 0, 0, 0, 0"
faults "#UD of LOCK CMP", 6, 0, ".byte 0xf0, 0x39, 0x05, 0, 0, 0, 0"
faults "#UD of LEA with a register", 6, 0, ".byte 0x8d, 0xc0"
faults "#UD of LDS with a register", 6, 0, ".byte 0xc5, 0xc0"
faults "#UD of SYSCALL in 32-bit mode without EFER.SCE", 6, 0, "syscall"
faults "#GP of an instruction of 16 bytes", 13, 0, ".fill 15, 1, 0x66; nop"
faults "#GP of SYSENTER without MSR", 13, 0, "sysenter"
faults "#GP of an unknown MSR", 13, 0, "rdmsr", "movl $0x12345, %ecx"
faults "#GP of writing an unknown MSR", 13, 0, "wrmsr", "movl $0x12345, %ecx"
pass

program 32, "exception/nm", exc_nm, "sse2"
movl %cr0, %eax
andl $0xfffffff9, %eax
orl $8, %eax
movl %eax, %cr0
faults "x87 with TS", 7, 0, "fnop"
faults "FNINIT with TS", 7, 0, "fninit"
works "WAIT with TS without MP", "fwait"
movl %cr4, %eax
orl $0x600, %eax
movl %eax, %cr4
faults "SSE with TS", 7, 0, "movaps %xmm0, %xmm1"
faults "FXSAVE with TS", 7, 0, "fxsave DATA"
works "PREFETCH with TS", "prefetcht0 DATA"
works "SFENCE with TS", "sfence"
movl %cr0, %eax
orl $2, %eax
movl %eax, %cr0
faults "WAIT with TS and MP", 7, 0, "fwait"
clts
movl %cr0, %eax
orl $4, %eax
movl %eax, %cr0
faults "x87 with EM", 7, 0, "fnop"
faults "SSE with EM", 6, 0, "movaps %xmm0, %xmm1"
movl %cr0, %eax
andl $0xfffffffb, %eax
movl %eax, %cr0
movl %cr4, %eax
andl $0xfffffdff, %eax
movl %eax, %cr4
faults "SSE without OSFXSR", 6, 0, "movaps %xmm0, %xmm1"
faults "SSE2 without OSFXSR", 6, 0, "movdqa %xmm0, %xmm1"
pass

program 32, "exception/mf-xm", exc_mf, "sse2"
movl %cr0, %eax
andl $0xfffffff3, %eax
orl $0x22, %eax
movl %eax, %cr0
movl %cr4, %eax
orl $0x600, %eax
movl %eax, %cr4
fninit
movw $0x033b, V_A
fldcw V_A
fld1
fldz
fdivrp %st, %st(1)
works "a non-waiting instruction does not report", "fnstsw V_C"
movl V_C, %eax
andl $0x8084, %eax
expect "ES, B and ZE are set", 0x8084
faults "#MF at the next waiting instruction", 16, 0, "fld1"
faults "#MF of WAIT", 16, 0, "fwait"
fnclex
works "FNCLEX ends it", "fwait"
fninit
movl $0x1d80, V_A
ldmxcsr V_A
movl $0x3f800000, V_B
movss V_B, %xmm0
xorps %xmm1, %xmm1
faults "#XM of an unmasked division by zero", 19, 0, "divss %xmm1, %xmm0"
movss %xmm0, V_B
expect_l "the destination survives", V_B, 0x3f800000
stmxcsr V_A
expect_l "ZE is recorded", V_A, 0x1d84
movl %cr4, %eax
andl $0xfffffbff, %eax
movl %eax, %cr4
faults "#UD without OSXMMEXCPT", 6, 0, "divss %xmm1, %xmm0"
movl $0x11f80, V_A
faults "#GP of reserved MXCSR bits", 13, 0, "ldmxcsr V_A"
faults "#GP of a misaligned MOVAPS", 13, 0, "movaps DATA+1, %xmm0"
pass

program 32, "exception/ac", exc_ac
movl %cr0, %eax
orl $0x40000, %eax
movl %eax, %cr0
pushfl
orl $0x40000, (%esp)
popfl
works "no alignment check at ring 0", "movl DATA+1, %eax"
ring3_32 0x00043002
faults "load", 17, 0, "movl DATA+1, %eax"
faults "store", 17, 0, "movw %ax, DATA+1"
faults "read-modify-write", 17, 0, "addl %eax, DATA+2"
works "aligned", "movl DATA+4, %eax"
works "bytes", "movb DATA+1, %al"
faults "8 bytes of x87 need 8", 17, 0, "fldl DATA+4"
pushfl
andl $0xfffbffff, (%esp)
popfl
works "no check without AC", "movl DATA+1, %eax"
ring0
pass

program 32, "exception/double", exc_double
idt_gate 8, CODE32, (stubs32 - guest + LOAD + 8*16), 0x8e
# a contributory exception while delivering a contributory one
movb $0x0e, IDT+13*8+5
movl $(1f - guest + LOAD), V_HOOK
movl $0x1000, %eax
movw %ax, %ds
unreachable "#GP without a gate"
1:
movl $DATA32, %eax
movw %ax, %ds
expect_l "#NP while delivering #GP is #DF", (%esp), 8
expect_l "with error code 0", 4(%esp), 0
movl $STACK0, %esp
# #GP, then a gate with a bad selector
movb $0x8e, IDT+13*8+5
movw $0x1000, IDT+13*8+2
movl $(1f - guest + LOAD), V_HOOK
movl $0x1000, %eax
movw %ax, %ds
1:
movl $DATA32, %eax
movw %ax, %ds
expect_l "#GP while delivering #GP is #DF", (%esp), 8
movl $STACK0, %esp
# a benign exception without a gate is not a double fault
movb $0x0e, IDT+6*8+5
movw $CODE32, IDT+13*8+2
movl $(1f - guest + LOAD), V_HOOK
2: ud2
1:
expect_l "#NP while delivering #UD is #NP", (%esp), 11
expect_l "its error code names the gate, with EXT", 4(%esp), 6*8+3
expect_l "and its EIP is that of the #UD", 8(%esp), 2b - guest + LOAD
movl $STACK0, %esp
# #DE is contributory
movb $0x0e, IDT+5
movl $(1f - guest + LOAD), V_HOOK
xorl %ecx, %ecx
divl %ecx
1:
expect_l "#NP while delivering #DE is #DF", (%esp), 8
pass
