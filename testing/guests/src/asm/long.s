# Long mode (SDM 3A chapters 5, 6 and 9; SDM 2 for SYSCALL and kin).

.macro wrmsr_q msr, hi, lo
movl $(\msr), %ecx
movl $(\hi), %edx
movl $(\lo), %eax
wrmsr
.endm
# Entry `vec` of the 64-bit IDT (handlers live below 64 KiB × n, so the offset has 32 bits).
.macro idt_gate64 vec, offset, type=0xee, ist=0, sel=CODE64
movl $((\sel << 16) | ((\offset) & 0xffff)), IDT+\vec*16
movl $(((\offset) & 0xffff0000) | (\type << 8) | \ist), IDT+\vec*16+4
movq $0, IDT+\vec*16+8
.endm
.set NONCANON, 0x800000000000

program 64, "long/interrupt-frames", l_frames
idt_gate64 0x30, (1f - guest + LOAD)
movq $0x1234, %rbx
leaq -3(%rsp), %rsp
movq %rsp, %r12
int $0x30
90:
expect_q "RSP comes back unaligned", %rsp, 0, STACK0-3
idt_gate64 0x30, (2f - guest + LOAD), 0xee, 1
movq $0x1e0000, TSS+0x24
int $0x30
91:
expect_q "RSP comes back from IST", %rsp, 0, STACK0-3
movl $STACK0, %esp
idt_gate64 14, (3f - guest + LOAD), 0x8e, 2
movq $0x1e8000, TSS+0x2c
movq $0x8000000000, %r13
92: movl (%r13), %eax
pass
1:
movq %rsp, %r14
expect_q "the stack is aligned before the frame is pushed", %r14, 0, (STACK0-3)/16*16-40
expect_q "RIP", (%rsp), 0, 90b - guest + LOAD
expect_q "CS", 8(%rsp), 0, CODE64
expect_q "RSP", 24(%rsp), 0, STACK0-3
expect_q "SS", 32(%rsp), 0, DATA32
movw %ss, %ax
expect_w "SS stays in the same ring", %ax, DATA32
iretq
2:
movq %rsp, %r14
expect_q "IST 1", %r14, 0, 0x1e0000-40
iretq
3:
movq %rsp, %r14
expect_q "IST 2, with an error code", %r14, 0, 0x1e8000-48
expect_q "error code", (%rsp), 0, 0
expect_q "RIP", 8(%rsp), 0, 92b - guest + LOAD
movq %cr2, %rbx
expect_q "CR2", %rbx, 0x80, 0
pass

program 64, "long/ring3", l_ring3
ring3_64 0x3202
xorl %eax, %eax
movw %cs, %ax
expect "CS", UCODE64
xorl %eax, %eax
movw %ss, %ax
expect "SS", UDATA
faults "HLT", 13, 0, "hlt"
faults "a supervisor instruction", 13, 0, "movq %cr0, %rax"
faults "INVLPG", 13, 0, "invlpg (%rax)"
faults "SWAPGS", 13, 0, "swapgs"
faults "SYSRET without EFER.SCE", 6, 0, "sysretq"
ring0
pass

program 64, "long/ring3-interrupt", l_ring3_int
idt_gate64 0x30, (1f - guest + LOAD)
ring3_64 0x3202
subq $5, %rsp
int $0x30
90:
xorl %eax, %eax
movw %ss, %ax
expect "IRETQ restores SS", UDATA
expect_q "and RSP", %rsp, 0, STACK3-5
ring0
pass
1:
expect_q "RSP0, less the frame", %rsp, 0, STACK0_IN-40
expect_q "RIP", (%rsp), 0, 90b - guest + LOAD
expect_q "CS", 8(%rsp), 0, UCODE64
movq 16(%rsp), %rax
andl $0x200, %eax
expect "IF was set", 0x200
expect_q "RSP", 24(%rsp), 0, STACK3-5
expect_q "SS", 32(%rsp), 0, UDATA
xorl %eax, %eax
movw %ss, %ax
expect "SS is null in the inner ring", 0
pushfq
popq %rax
andl $0x200, %eax
expect "IF is clear through an interrupt gate", 0
iretq

program 64, "long/iretq", l_iretq
movl $DATA32, %eax
pushq $0x13
pushq $STACK0
pushq $2
pushq $CODE64
pushq $(1f - guest + LOAD)
faults "SS of another ring", 13, 0x10, "iretq"
movq $0, 32(%rsp)
iretq
1:
xorl %eax, %eax
movw %ss, %ax
expect "ring 0 may return to a null SS", 0
movl $STACK0, %esp
movl $DATA32, %eax
movw %ax, %ss
pushq $UDATA
pushq $STACK3
pushq $2
pushq $UCODE64
movq $NONCANON, %rax
pushq %rax
faults "a non-canonical RIP", 13, 0, "iretq"
movl $(2f - guest + LOAD), (%rsp)
movl $0, 4(%rsp)
movq $0, 32(%rsp)
faults "ring 3 with a null SS", 13, 0, "iretq"
movq $UCODE64, 8(%rsp)
movq $UDATA, 32(%rsp)
movq $0x4002, %rax
movq %rsp, %rbx
pushq %rax
popfq
faults "NT", 13, 0, "iretq"
pushq $2
popfq
movq $CODE64|3, 8(%rsp)
faults "RPL above DPL", 13, CODE64, "iretq"
descriptor FREE, 0xffff, 0x00effb00
movq $FREE|3, 8(%rsp)
faults "a code segment with L and D", 13, FREE, "iretq"
2:
pass

program 64, "long/fs-gs", l_fsgs
wrmsr_q 0xc0000100, 0x1, 0x2345678
movl $0xc0000100, %ecx
rdmsr
expect "FS base", 0x2345678
wrmsr_q 0xc0000100, 0, DATA
wrmsr_q 0xc0000101, 0, DATA+0x1000
wrmsr_q 0xc0000102, 0, DATA+0x2000
movl $1, DATA
movl $2, DATA+0x1000
movl $3, DATA+0x2000
expect_l "through FS", %fs:0, 1
expect_l "through GS", %gs:0, 2
swapgs
expect_l "after SWAPGS", %gs:0, 3
movl $0xc0000102, %ecx
rdmsr
expect "KERNEL_GS_BASE", DATA+0x1000
xorl %ebx, %ebx
movw $DATA32, %ax
movw %ax, %fs
movl $0x5a5a5a5a, 0x5000
expect_l "loading a selector sets the base", %fs:0x5000, 0x5a5a5a5a
faults "a non-canonical FS base", 13, 0, "wrmsr", "movl $0xc0000100, %ecx; movl $0x8000, %edx; xorl %eax, %eax"
faults "a non-canonical LSTAR", 13, 0, "wrmsr", "movl $0xc0000082, %ecx; movl $0x8000, %edx; xorl %eax, %eax"
movw $DATA32, %ax
movw %ax, %ds
expect_l "DS base is ignored", V_A, 0
descriptor FREE, 0x1000ffff, 0x00009300
movw $FREE, %ax
movw %ax, %ds
movl $0x77, 0x5004
expect_l "even of a based segment, and its limit", %es:0x5004, 0x77
pass

program 64, "long/fsgsbase", l_fsgsbase, "fsgsbase"
faults "RDFSBASE without CR4.FSGSBASE", 6, 0, "rdfsbase %rax"
movq %cr4, %rax
orl $0x10000, %eax
movq %rax, %cr4
movq $0x123456789000, %rbx
wrfsbase %rbx
rdfsbase %rcx
expect_q "FS", %rcx, 0x1234, 0x56789000
wrgsbase %ebx
rdgsbase %rcx
expect_q "GS, 32 bits", %rcx, 0, 0x56789000
faults "a non-canonical base", 13, 0, "wrgsbase %rdx", "movq $NONCANON, %rdx"
ring3_64 0x3002
works "at ring 3", "wrfsbase %rbx; rdgsbase %rcx"
ring0
pass

program 64, "long/compatibility", l_compat
ljmpl *1f - guest + LOAD
1: .long 2f - guest + LOAD
.word CODE32
.code32
2:
movl $DATA32, %eax
movw %ax, %ds
movw %ax, %es
movw %ax, %ss
movl $STACK0, %esp
pushl $0x11111111
expect_l "32-bit stack", %esp, STACK0-4
popl %eax
movl $0x1f, %eax
incl %eax
expect "INC has a one-byte form", 0x20
.byte 0x67, 0x8a, 0x07        # movb (%bx), %al: 16-bit addressing
traps "INT3 through a 64-bit gate", 3, 0, "int3"
faults "#UD in compatibility mode", 6, 0, "ud2"
faults "a task gate's way: far JMP to a TSS", 13, TSS_SEL, "ljmpl $TSS_SEL, $0"
faults "a limit", 13, 0, "movb %fs:0x10000, %al", "movw $DATA16, %ax; movw %ax, %fs"
movl %cr0, %eax
andl $0x80000001, %eax
expect "PG and PE", 0x80000001
ljmpl $CODE64, $(3f - guest + LOAD)
.code64
3:
movq $0x123456789abcdef0, %rbx
expect_q "back in 64-bit mode", %rbx, 0x12345678, 0x9abcdef0
# off and on again: through compatibility mode to protected mode without paging
ljmpl *4f - guest + LOAD
4: .long 5f - guest + LOAD
.word CODE32
.code32
5:
movl $DATA32, %eax
movw %ax, %ss
faults "CR4.PAE cannot be cleared in long mode", 13, 0, "movl %eax, %cr4", "movl %cr4, %eax; andl $0xffffffdf, %eax"
movl %cr0, %eax
andl $0x7fffffff, %eax
movl %eax, %cr0
jmp 6f
6:
movl $0xc0000080, %ecx
rdmsr
andl $0x500, %eax
expect "LMA follows PG, LME stays", 0x100
orl $0x80000000, %ebx
movl %cr0, %ebx
orl $0x80000000, %ebx
movl %ebx, %cr0
jmp 7f
7:
movl $0xc0000080, %ecx
rdmsr
andl $0x500, %eax
expect "LMA is back", 0x500
faults "LME cannot be changed with paging on", 13, 0, "wrmsr", "movl $0xc0000080, %ecx; rdmsr; xorl $0x100, %eax"
pass

program 64, "long/canonical", l_canonical
movq $NONCANON, %rbx
movq $0x7fffffffffff, %rcx
faults "load", 13, 0, "movl (%rbx), %eax"
faults "store", 13, 0, "movl %eax, (%rbx)"
faults "load across the hole's edge", 13, 0, "movl (%rcx), %eax"
faults "through RBP: #SS", 12, 0, "movl (%rbp), %eax", "movq %rbx, %rbp"
faults "through RSP with an index: #SS", 12, 0, "movq (%rsp,%rdx), %rax", "movq $0x700000000000, %rdx; shlq $1, %rdx"
faults "FS override of a stack address", 13, 0, "movl %fs:(%rbp), %eax", "movq %rbx, %rbp"
movq %rsp, %r12
movq %rbx, %r13
faults "indirect JMP", 13, 0, "jmpq *%rbx"
faults "indirect CALL", 13, 0, "callq *%rbx"
expect_q "pushed nothing", %rsp, 0, STACK0
pushq %rbx
faults "RET", 13, 0, "retq"
expect_q "popped nothing", %rsp, 0, STACK0-8
popq %rax
faults "PREFETCH does not fault, LGDT does", 13, 0, "lgdt (%rbx)", "prefetcht0 (%rbx)"
movw $0xffff, V_A
movq %rbx, V_A+2
faults "LGDT of a non-canonical base", 13, 0, "lgdt V_A"
works "INVLPG of one is a no-op", "invlpg (%rbx)"
faults "REP MOVS into one", 13, 0, "rep movsb", "movq %rbx, %rdi; movl $V_A, %esi; movl $1, %ecx; cld"
works "an address that wraps", "movq $-4, %rdx; movl 8(%rdx), %eax"
pass

program 64, "long/undefined-opcodes", l_undefined
faults "PUSH ES", 6, 0, ".byte 0x06"
faults "POP DS", 6, 0, ".byte 0x1f"
faults "DAA", 6, 0, ".byte 0x27"
faults "AAM", 6, 0, ".byte 0xd4, 0x0a"
faults "PUSHA", 6, 0, ".byte 0x60"
faults "far JMP with a pointer", 6, 0, ".byte 0xea, 0, 0, 0, 0, 8, 0"
faults "far CALL with a pointer", 6, 0, ".byte 0x9a, 0, 0, 0, 0, 8, 0"
faults "INTO", 6, 0, ".byte 0xce"
faults "SALC", 6, 0, ".byte 0xd6"
faults "82h", 6, 0, ".byte 0x82, 0xc0, 0"
faults "LOCK with NOP", 6, 0, ".byte 0xf0, 0x90"
faults "REX and then a legacy prefix: still UD2", 6, 0, ".byte 0x48, 0x66, 0x0f, 0x0b"
faults "MOV CR8 with LOCK is AMD's", 6, 0, ".byte 0x0f, 0x20, 0xc8"
works "MOVSXD", "movslq %eax, %rbx"
works "UD prefix order: 66 before REX", ".byte 0x66, 0x48, 0x90"
pass

program 64, "long/cr8", l_cr8
movl $5, %eax
movq %rax, %cr8
movq %cr8, %rbx
expect_q "CR8", %rbx, 0, 5
movl $APIC, %edi
expect_l "TPR", 0x80(%rdi), 0x50
movl $0x37, 0x80(%rdi)
movq %cr8, %rbx
expect_q "CR8 is TPR's class", %rbx, 0, 3
faults "reserved bits", 13, 0, "movq %rax, %cr8", "movl $16, %eax"
pass

program 64, "long/control-registers", l_control
faults "CR0 above 32 bits", 13, 0, "movq %rax, %cr0", "movq %cr0, %rax; btsq $32, %rax"
faults "CR4 above 32 bits", 13, 0, "movq %rax, %cr4", "movq %cr4, %rax; btsq $40, %rax"
faults "CR3 beyond the physical address width", 13, 0, "movq %rax, %cr3", "movq %cr3, %rax; btsq $62, %rax"
faults "clearing PG in 64-bit mode", 13, 0, "movq %rax, %cr0", "movq %cr0, %rax; btrq $31, %rax"
faults "EFER reserved bits", 13, 0, "wrmsr", "movl $0xc0000080, %ecx; rdmsr; orl $0x40000, %eax"
faults "DR7 above 32 bits", 13, 0, "movq %rax, %db7", "movq $0x100000400, %rax"
faults "DR6 above 32 bits", 13, 0, "movq %rax, %db6", "movq $0x100000000, %rax"
movq $0x123456789, %rax
movq %rax, %cr2
movq %cr2, %rbx
expect_q "CR2 holds 64 bits", %rbx, 1, 0x23456789
pass

program 64, "long/xsetbv", l_xsetbv, "xsave"
faults "XSETBV without OSXSAVE", 6, 0, "xsetbv"
faults "XGETBV without OSXSAVE", 6, 0, "xgetbv"
movq %cr4, %rax
orl $0x40000, %eax
movq %rax, %cr4
movl $1, %eax
cpuid
shrl $27, %ecx
andl $1, %ecx
expect_l "CPUID.OSXSAVE follows CR4", %ecx, 1
xorl %ecx, %ecx
xgetbv
expect "XCR0 after reset", 1
faults "without x87", 13, 0, "xsetbv", "xorl %ecx, %ecx; xorl %edx, %edx; movl $2, %eax"
faults "AVX without SSE", 13, 0, "xsetbv", "movl $5, %eax"
faults "a reserved bit", 13, 0, "xsetbv", "movl $0x80000001, %eax"
faults "XCR1", 13, 0, "xsetbv", "movl $1, %ecx; movl $1, %eax"
works "x87 and SSE", "xorl %ecx, %ecx; xorl %edx, %edx; movl $3, %eax; xsetbv"
ring3_64 0x3002
faults "at ring 3", 13, 0, "xsetbv"
works "XGETBV at ring 3", "xorl %ecx, %ecx; xgetbv"
ring0
pass

program 64, "long/call-gate", l_call_gate
gate FREE, CODE64, (1f - guest + LOAD), 0xec
movl $0, GDT+FREE+8
movl $0, GDT+FREE+12
movq $STACK0_IN, TSS+4
ring3_64 0x3002
lcalll *2f - guest + LOAD
90:
expect_q "back, with RSP", %rsp, 0, STACK3
ring0
movl $0x1f00, GDT+FREE+12
faults "a gate whose upper half has a type", 13, FREE, "lcalll *(2f - guest + LOAD)"
pass
1:
expect_q "RSP0 less the frame", %rsp, 0, STACK0_IN-32
expect_q "RIP", (%rsp), 0, 90b - guest + LOAD
expect_q "CS", 8(%rsp), 0, UCODE64
expect_q "RSP", 16(%rsp), 0, STACK3
expect_q "SS", 24(%rsp), 0, UDATA
xorl %eax, %eax
movw %ss, %ax
expect "SS is null", 0
lretq
2: .long 0
.word FREE+3

program 64, "long/single-step", l_step
movl $0, V_A
movq $(1f - guest + LOAD), %rax
movq %rax, V_HOOK
pushfq
orq $0x100, (%rsp)
popfq
90: nop
movl $1, %ecx
nop
pushfq
andq $-0x101, (%rsp)
popfq
movq $0, V_HOOK
expect_l "six traps", V_A, 6
pass
1:
incl V_A
addq $16, %rsp
iretq

program 64, "long/umip", l_umip, "umip"
ring3_64 0x3002
works "SGDT without UMIP", "sgdt V_A"
ring0
movq %cr4, %rax
orl $0x800, %eax
movq %rax, %cr4
works "SGDT at ring 0", "sgdt V_A"
ring3_64 0x3002
faults "SGDT", 13, 0, "sgdt V_A"
faults "SIDT", 13, 0, "sidt V_A"
faults "SLDT", 13, 0, "sldt %eax"
faults "STR", 13, 0, "str %eax"
faults "SMSW", 13, 0, "smsw %eax"
ring0
pass

program 64, "long/tsd-pce", l_tsd
movq %cr4, %rax
orl $4, %eax
movq %rax, %cr4
works "RDTSC at ring 0", "rdtsc"
ring3_64 0x3002
faults "RDTSC at ring 3 with TSD", 13, 0, "rdtsc"
faults "RDPMC at ring 3", 13, 0, "rdpmc", "xorl %ecx, %ecx"
works "CPUID at ring 3", "cpuid"
ring0
rdtsc
movl %eax, %esi
movl %edx, %edi
rdtsc
subl %esi, %eax
sbbl %edi, %edx
expect_l "time goes forward", %edx, 0
pass

program 64, "long/double-fault", l_double
idt_gate64 8, (1f - guest + LOAD), 0x8e, 1
movq $0x1e0000, TSS+0x24
movq $0x8000000000, %rbx
movq %rbx, %rsp
90: pushq %rax
unreachable "a push without a stack"
1:
expect_q "on the stack of the IST", %rsp, 0, 0x1e0000-48
expect_q "error code", (%rsp), 0, 0
expect_q "RIP", 8(%rsp), 0, 90b - guest + LOAD
expect_q "RSP", 32(%rsp), 0x80, 0
movl $STACK0, %esp
# a page fault in the IDT itself: #PF while delivering #UD is served as #PF
idt_gate64 14, (2f - guest + LOAD), 0x8e
movq $0, IDT+6*16
movq $0, IDT+6*16+8
idt_gate64 13, (2f - guest + LOAD), 0x8e
movl $0, V_HOOK
91: ud2
unreachable "#UD without a gate"
2:
expect_l "an empty gate for #UD: #GP", (%rsp), 6*8+3
expect_q "at the instruction", 8(%rsp), 0, 91b - guest + LOAD
pass
