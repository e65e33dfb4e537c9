# Fast system calls (SDM 2B, SYSCALL, SYSRET, SYSENTER, SYSEXIT).

program 64, "long/syscall", l_syscall, "syscall"
movl $0xc0000080, %ecx
rdmsr
orl $1, %eax
wrmsr
wrmsr_q 0xc0000081, 0x00300018, 0
wrmsr_q 0xc0000082, 0, (1f - guest + LOAD)
wrmsr_q 0xc0000084, 0, 0x3400
ring3_64 0x3603
movq %rsp, %r12
syscall
90:
pushfq
popq %rbx
xorl %eax, %eax
movw %cs, %ax
expect "SYSRET CS", UCODE64
xorl %eax, %eax
movw %ss, %ax
expect "SYSRET SS", UDATA
movl %ebx, %eax
andl $0x3601, %eax
expect "SYSRET RFLAGS is R11", 0x3401
ring0
pass
1:
movq %r11, %rbx
movq %rcx, %rdx
movq $STACK0, %rsp
pushfq
popq %rbp
xorl %eax, %eax
movw %cs, %ax
expect "SYSCALL CS", CODE64
xorl %eax, %eax
movw %ss, %ax
expect "SYSCALL SS", CODE64+8
expect_q "RCX is the next RIP", %rdx, 0, 90b - guest + LOAD
movl %ebx, %eax
andl $0x3601, %eax
expect "R11 is RFLAGS", 0x3601
movl %ebp, %eax
andl $0x3601, %eax
expect "FMASK clears flags", 0x0201
movw $0x20, %ax
movw %ax, %ss
movq %rdx, %rcx
movq $0x3403, %r11
movq %r12, %rsp
sysretq

program 64, "long/syscall-off", l_syscall_off, "syscall"
movl $0xc0000080, %ecx
rdmsr
andl $0xfffffffe, %eax
wrmsr
faults "SYSCALL without SCE", 6, 0, "syscall"
faults "SYSRET without SCE", 6, 0, "sysretq"
pass

program 64, "long/sysret32", l_sysret32, "syscall"
movl $0xc0000080, %ecx
rdmsr
orl $1, %eax
wrmsr
wrmsr_q 0xc0000081, 0x00300018, 0
movl $(1f - guest + LOAD), %ecx
movl $0x3002, %r11d
movl $STACK3, %esp
sysretl
.code32
1:
movw $UDATA, %ax
movw %ax, %ds
xorl %eax, %eax
movw %cs, %ax
expect "compatibility-mode CS", UCODE32
movl $UCODE32, %eax
.byte 0x48, 0x90             # DEC EAX; NOP, not a REX prefix
expect "REX is DEC EAX", UCODE32-1
pass

program 64, "long/sysenter", l_sysenter, "sep intel"
movl $0x174, %ecx
wrmsr_q 0x174, 0, 0xa8
wrmsr_q 0x175, 0, STACK0
wrmsr_q 0x176, 0, (1f - guest + LOAD)
descriptor 0xa8, 0x0000ffff, 0x00af9b00
descriptor 0xb0, 0x0000ffff, 0x00cf9300
descriptor 0xb8, 0x0000ffff, 0x00cffb00
descriptor 0xc0, 0x0000ffff, 0x00cff300
descriptor 0xc8, 0x0000ffff, 0x00affb00
descriptor 0xd0, 0x0000ffff, 0x00cff300
ring3_64 0x3002
stc
sysenter
unreachable "SYSENTER"
1:
expect_q "RSP", %rsp, 0, STACK0
xorl %eax, %eax
movw %cs, %ax
expect "CS", 0xa8
xorl %eax, %eax
movw %ss, %ax
expect "SS", 0xb0
pushq $2
popfq
movq $(2f - guest + LOAD), %rdx
movq $STACK3, %rcx
pushfq
orq $0x3000, (%rsp)
popfq
sysexitq
2:
xorl %eax, %eax
movw %cs, %ax
expect "SYSEXIT CS", 0xc8+3
xorl %eax, %eax
movw %ss, %ax
expect "SYSEXIT SS", 0xd0+3
expect_q "RSP is RCX", %rsp, 0, STACK3
faults "SYSEXIT at ring 3", 13, 0, "sysexitq"
ring0
wrmsr_q 0x174, 0, 0
faults "SYSENTER with a null CS", 13, 0, "sysenter"
pass
