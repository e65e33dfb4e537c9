# Protected mode: segments and privilege (SDM 3A chapters 3 and 5).

program 32, "protected/limits", pm_limits
# FREE: data, base DATA, limit FFFh, byte granular
descriptor FREE, ((DATA & 0xffff) << 16 | 0x0fff), 0x00409300 | (DATA >> 16 & 0xff)
movw $FREE, %ax
movw %ax, %fs
works "last byte", "movb %al, %fs:0xfff"
faults "byte beyond", 13, 0, "movb %al, %fs:0x1000"
faults "doubleword half beyond", 13, 0, "movl %eax, %fs:0xffd"
works "doubleword at the end", "movl %eax, %fs:0xffc"
faults "a load half beyond", 13, 0, "movw %fs:0xfff, %ax"
faults "offset FFFFFFFFh", 13, 0, "movb %fs:(%ebx), %al", "movl $-1, %ebx"
# expand-down, 32 bits: offsets 1000h to FFFFFFFFh
descriptor FREE, ((DATA & 0xffff) << 16 | 0x0fff), 0x00409700 | (DATA >> 16 & 0xff)
movw $FREE, %ax
movw %ax, %fs
faults "expand-down: at the limit", 13, 0, "movb %al, %fs:0xfff"
works "expand-down: above the limit", "movb %al, %fs:0x1000"
faults "expand-down: straddling the limit", 13, 0, "movl %eax, %fs:0xffe"
# expand-down, 16 bits: up to FFFFh
descriptor FREE, ((DATA & 0xffff) << 16 | 0x0fff), 0x00009700 | (DATA >> 16 & 0xff)
movw $FREE, %ax
movw %ax, %fs
works "expand-down, 16 bits: FFFFh", "movb %al, %fs:0xffff"
faults "expand-down, 16 bits: 10000h", 13, 0, "movb %al, %fs:0x10000"
faults "expand-down, 16 bits: across FFFFh", 13, 0, "movw %ax, %fs:0xffff"
# read-only and execute-only
descriptor FREE, ((DATA & 0xffff) << 16 | 0xffff), 0x00409100 | (DATA >> 16 & 0xff)
movw $FREE, %ax
movw %ax, %fs
works "load from read-only", "movl %fs:0, %eax"
faults "store to read-only", 13, 0, "movl %eax, %fs:0"
faults "read-modify-write of read-only", 13, 0, "incl %fs:0"
faults "CS is not writable", 13, 0, "movl %eax, %cs:V_A"
works "CS is readable", "movl %cs:V_A, %eax"
# EBP addresses go through SS, whose faults are #SS; the limit leaves room for the handler's frame
movl %esp, %esi
descriptor FREE, 0xffff, 0x00419300
movl $0xfff00000, %ebp
movw $FREE, %ax
movl $0x7000, %esp
movw %ax, %ss
movl $0x7000, %esp
faults "EBP beyond SS", 12, 0, "movl 0x120000(%ebp), %eax"
movl $0x1fffd, %ebp
faults "doubleword across the end of SS", 12, 0, "movl (%ebp), %eax"
movl $0x1fffc, %ebp
works "doubleword at the end of SS", "movl (%ebp), %eax"
movw $DATA32, %ax
movw %ax, %ss
movl %esi, %esp
pass

program 32, "protected/null-and-kinds", pm_loads
xorl %eax, %eax
works "null into DS, ES, FS, GS", "movw %ax, %es; movw %ax, %fs; movw %ax, %gs"
faults "access through a null ES", 13, 0, "movl %es:V_A, %eax"
faults "store through a null FS", 13, 0, "movl %eax, %fs:V_A"
faults "null into SS", 13, 0, "movw %ax, %ss", "xorl %eax, %eax"
faults "RPL 3 null into SS", 13, 0, "movw %ax, %ss", "movw $3, %ax"
faults "MOV to CS", 6, 0, ".byte 0x8e, 0xc8"
faults "segment register 6", 6, 0, ".byte 0x8e, 0xf0"
faults "beyond the GDT", 13, 0x100, "movw %ax, %es", "movw $0x100, %ax"
faults "beyond the GDT, RPL 3", 13, 0x100, "movw %ax, %es", "movw $0x103, %ax"
faults "LDT while LDTR is null", 13, 4, "movw %ax, %es", "movw $7, %ax"
descriptor FREE, 0xffff, 0x00cf1300
faults "not present data into ES", 11, FREE, "movw %ax, %es", "movw $FREE, %ax"
faults "not present data into SS", 12, FREE, "movw %ax, %ss", "movw $FREE, %ax"
descriptor FREE, 0xffff, 0x00cf9900
faults "execute-only into ES", 13, FREE, "movw %ax, %es", "movw $FREE, %ax"
faults "code into SS", 13, CODE32, "movw %ax, %ss", "movw $CODE32, %ax"
works "readable code into ES", "movw $CODE32, %ax; movw %ax, %es"
descriptor FREE, 0xffff, 0x00cf9100
faults "read-only data into SS", 13, FREE, "movw %ax, %ss", "movw $FREE, %ax"
faults "a TSS into ES", 13, TSS_SEL, "movw %ax, %es", "movw $TSS_SEL, %ax"
faults "DPL 3 data into SS at ring 0", 13, UDATA & 0xfff8, "movw %ax, %ss", "movw $UDATA, %ax"
faults "RPL 3 with DPL 0 data", 13, DATA32, "movw %ax, %es", "movw $(DATA32 | 3), %ax"
works "DPL 3 data into ES", "movw $UDATA, %ax; movw %ax, %es"
# accessed bit
descriptor FREE, 0xffff, 0x00cf9200
movw $FREE, %ax
movw %ax, %es
expect_l "the load sets the accessed bit", GDT+FREE+4, 0x00cf9300
faults "LES with a bad selector", 13, 0x100, "lesl V_A, %ecx", "movl $0x100, V_A+4; movl $5, %ecx"
expect_l "leaves the register alone", %ecx, 5
faults "POP ES with a bad selector", 13, 0x100, "popl %es", "pushl $0x100; movl %esp, %ebx"
expect_l "leaves ESP alone", %esp, STACK0-4
popl %ebx
# far jumps
faults "far JMP to data", 13, DATA32, "ljmpl $DATA32, $0"
faults "far JMP to null", 13, 0, "ljmpl $0, $0"
faults "far JMP to ring 3 code", 13, UCODE32 & 0xfff8, "ljmpl $UCODE32, $0"
faults "far CALL beyond the GDT", 13, 0x100, "lcalll $0x100, $0"
descriptor FREE, 0xffff, 0x00cf1b00
faults "far JMP to not present code", 11, FREE, "ljmpl $FREE, $0"
descriptor FREE, 0xffff, 0x00409b00
faults "far JMP beyond the new limit", 13, 0, "ljmpl $FREE, $0x10000"
faults "far CALL beyond the new limit", 13, 0, "lcalll $FREE, $0x10000"
expect_l "nothing was pushed", %esp, STACK0
# LDT
descriptor LDT_SEL, (LDT & 0xffff) << 16 | 0x3f, 0x00008200 | LDT >> 16
movl $0x0000ffff, LDT+8
movl $0x00cf9300, LDT+12
movw $LDT_SEL, %ax
lldt %ax
works "a selector of the LDT", "movw $0xc, %ax; movw %ax, %es"
faults "beyond the LDT", 13, 0x44, "movw %ax, %es", "movw $0x44, %ax"
faults "an empty LDT entry", 13, 0x14, "movw %ax, %es", "movw $0x14, %ax"
faults "LLDT with a TSS", 13, TSS_SEL, "lldt %ax", "movw $TSS_SEL, %ax"
faults "LLDT with a selector of the LDT", 13, 0xc, "lldt %ax", "movw $0xc, %ax"
faults "LTR with a busy TSS", 13, TSS_SEL, "ltr %ax", "movw $TSS_SEL, %ax"
faults "LTR with null", 13, 0, "ltr %ax", "xorl %eax, %eax"
works "LLDT with null", "xorl %eax, %eax; lldt %ax"
strl %ebx
expect_w "STR", %bx, TSS_SEL
expect_l "LTR set the busy bit", GDT+TSS_SEL+4, 0x00008b18
pass

program 32, "protected/ring3-loads", pm_ring3_loads
ring3_32
xorl %eax, %eax
movw %cs, %ax
expect "ring 3 CS", UCODE32
xorl %eax, %eax
movw %ss, %ax
expect "ring 3 SS", UDATA
expect_l "ring 3 ESP", %esp, STACK3
faults "DPL 0 data", 13, DATA32, "movw %ax, %es", "movw $DATA32, %ax"
faults "DPL 0 data with RPL 3", 13, DATA32, "movw %ax, %es", "movw $(DATA32 | 3), %ax"
works "DPL 3 data with RPL 0", "movw $(UDATA & 0xfff8), %ax; movw %ax, %es"
faults "SS with RPL 0", 13, UDATA & 0xfff8, "movw %ax, %ss", "movw $(UDATA & 0xfff8), %ax"
faults "far JMP to ring 0", 13, CODE32, "ljmpl $CODE32, $0"
faults "HLT", 13, 0, "hlt"
faults "CLTS", 13, 0, "clts"
faults "MOV from CR0", 13, 0, "movl %cr0, %eax"
faults "MOV to CR3", 13, 0, "movl %eax, %cr3"
faults "MOV from DR7", 13, 0, "movl %db7, %eax"
faults "LGDT", 13, 0, "lgdtl GDTR"
faults "LIDT", 13, 0, "lidtl IDTR"
faults "LLDT", 13, 0, "lldt %ax"
faults "LTR", 13, 0, "ltr %ax"
faults "LMSW", 13, 0, "lmsw %ax"
faults "RDMSR", 13, 0, "rdmsr"
faults "WRMSR", 13, 0, "wrmsr"
faults "INVLPG", 13, 0, "invlpg 0"
faults "INVD", 13, 0, "invd"
faults "WBINVD", 13, 0, "wbinvd"
works "CLI with IOPL 3", "cli"
works "SGDT", "sgdtl V_A"
ring0
pass

program 32, "protected/gate-dpl", pm_gate_dpl
movb $0x8e, IDT+0x21*8+5
movb $0x0e, IDT+0x22*8+5
movb $0x8c, IDT+0x23*8+5
ring3_32
faults "INT through a gate of DPL 0", 13, 0x21*8+2, "int $0x21"
faults "INT through a gate not present, DPL 0", 13, 0x22*8+2, "int $0x22"
faults "INT through a gate of a wrong type", 13, 0x23*8+2, "int $0x23"
faults "INT through an empty gate", 13, 0x41*8+2, "int $0x41"
faults "an exception needs no DPL", 0, 0, "divl %ecx", "xorl %ecx, %ecx"
ring0
movb $0x6e, IDT+0x22*8+5
faults "INT through a gate not present", 11, 0x22*8+2, "int $0x22"
movw $DATA32, IDT+0x21*8+2
faults "INT to a data segment", 13, DATA32, "int $0x21"
movw $0, IDT+0x21*8+2
faults "INT to the null selector", 13, 0, "int $0x21"
movw $0x0c8, IDT+0x21*8+2
faults "INT to an empty descriptor", 13, 0xc8, "int $0x21"
lidtl 2f - guest + LOAD
faults "INT beyond the limit of the IDT", 13, 0x30*8+2, "int $0x30"
lidtl IDTR
pass
2: .word 0x30*8+6
.long IDT

program 32, "protected/privileged-io", pm_io
# IOPL 0 at ring 3; the I/O permission bitmap allows ports 200h and 201h only
movl $0x100, %ecx
movl $(TSS + 0x68), %edi
movb $0xff, %al
rep stosb
movb $0xfc, TSS+0x68+0x40
movw $0x68, TSS+0x66
movb $0, TSS+0x68+0x12       # the reporting ports
movb $0, TSS+0x68+0x13
ring3_32 0x0002
works "byte of an allowed port", "movw $0x200, %dx; outb %al, %dx; inb %dx, %al"
works "word of two allowed ports", "inw %dx, %ax"
faults "word across an allowed port", 13, 0, "inw %dx, %ax", "movw $0x201, %dx"
faults "doubleword", 13, 0, "outl %eax, %dx", "movw $0x200, %dx"
faults "byte of a forbidden port", 13, 0, "inb %dx, %al", "movw $0x202, %dx"
faults "INS of a forbidden port", 13, 0, "insb", "movw $0x202, %dx; movl $DATA, %edi"
faults "beyond the TSS limit", 13, 0, "inb %dx, %al", "movw $0xffff, %dx"
faults "CLI with IOPL 0", 13, 0, "cli"
faults "STI with IOPL 0", 13, 0, "sti"
pushfl
orl $0x3200, (%esp)
popfl
pushfl
popl %eax
andl $0x3200, %eax
expect "POPF changes neither IF nor IOPL", 0
ring0
pass

program 32, "protected/iret", pm_iret
pushfl
pushl $DATA32
pushl $(1f - guest + LOAD)
faults "IRET to data", 13, DATA32, "iretl"
1:
expect_l "IRET that faults pops nothing", %esp, STACK0-12
movl $0x100, 4(%esp)
faults "IRET beyond the GDT", 13, 0x100, "iretl"
movl $0, 4(%esp)
faults "IRET to null", 13, 0, "iretl"
movl $STACK0, %esp
pushl $DATA32
pushl $STACK3
pushl $2
pushl $UCODE32
pushl $0x1234
faults "IRET to ring 3 with SS of ring 0", 13, DATA32, "iretl"
movl $0, 16(%esp)
faults "IRET to ring 3 with a null SS", 13, 0, "iretl"
movl $UDATA, 16(%esp)
descriptor FREE, 0xffff, 0x00cf7300
movl $(FREE | 3), 16(%esp)
faults "IRET to ring 3 with SS not present", 12, FREE, "iretl"
descriptor FREE, 0xffff, 0x00407b00
movl $UDATA, 16(%esp)
movl $(FREE | 3), 4(%esp)
faults "IRET to code not present", 11, FREE, "iretl"
movl $STACK0, %esp
pushl $0x00244ed7
pushl $CODE32
pushl $(2f - guest + LOAD)
iretl
2:
pushfl
popl %eax
andl $0x00240cd5, %eax
expect "IRET sets the flags", 0x00240cd5
pushl $2
popfl
pass

program 32, "protected/lar-lsl-verr", pm_lar
movl $DATA32, %ecx
larl %ecx, %eax
setz %bl
andl $0xf0ff00, %eax
expect "LAR of data", 0x00c09300
expect_b "LAR sets ZF", %bl, 1
lsll %ecx, %eax
expect "LSL scales by the granularity", 0xffffffff
movl $CODE16, %ecx
lsll %ecx, %eax
expect "LSL of a byte-granular segment", 0xffff
movl $TSS_SEL, %ecx
lsll %ecx, %eax
expect "LSL of a TSS", 0x2067
larl %ecx, %eax
andl $0xff00, %eax
expect "LAR of a busy TSS", 0x8b00
gate FREE, CODE32, 0x1234, 0xec, 0
movl $FREE, %ecx
movl $0x5555, %eax
lsll %ecx, %eax
setz %bl
expect "LSL of a gate leaves the register", 0x5555
expect_b "and clears ZF", %bl, 0
larl %ecx, %eax
expect "LAR of a call gate", 0xec00
gate FREE, CODE32, 0x1234, 0xee, 0
movl $0x5555, %eax
larl %ecx, %eax
setz %bl
expect "LAR of an interrupt gate leaves the register", 0x5555
expect_b "LAR of an interrupt gate clears ZF", %bl, 0
xorl %ecx, %ecx
larl %ecx, %eax
setz %bl
expect_b "LAR of null", %bl, 0
movl $0x1000, %ecx
lsll %ecx, %eax
setz %bl
expect_b "LSL beyond the GDT", %bl, 0
.macro verify name, insn, sel, want
movl $(\sel), %ecx
\insn %cx
setz %bl
expect_b "\name", %bl, \want
.endm
descriptor FREE, 0xffff, 0x00cf9900
descriptor FREE+8, 0xffff, 0x00cf9100
descriptor FREE+16, 0xffff, 0x00cf9f00
verify "VERR of data", verr, DATA32, 1
verify "VERW of data", verw, DATA32, 1
verify "VERR of readable code", verr, CODE32, 1
verify "VERW of code", verw, CODE32, 0
verify "VERR of execute-only code", verr, FREE, 0
verify "VERW of read-only data", verw, FREE+8, 0
verify "VERR with RPL 3 of DPL 0 data", verr, DATA32+3, 0
verify "VERR with RPL 3 of conforming code", verr, FREE+16+3, 1
verify "VERR of a TSS", verr, TSS_SEL, 0
verify "VERR of null", verr, 0, 0
ring3_32
verify "ring 3: VERR of DPL 0 data", verr, DATA32, 0
verify "ring 3: VERW of DPL 3 data", verw, UDATA, 1
movl $DATA32, %ecx
larl %ecx, %edx
setz %bl
expect_b "ring 3: LAR of DPL 0 data", %bl, 0
movw $0x13, %ax
movw $0x10, %bx
arpl %ax, %bx
setz %cl
expect_w "ARPL raises the RPL", %bx, 0x13
expect_b "ARPL says so", %cl, 1
movw $1, %ax
arpl %ax, %bx
setz %cl
expect_w "ARPL never lowers it", %bx, 0x13
expect_b "ARPL says that too", %cl, 0
ring0
pass

program 32, "protected/far-return", pm_far_return
# an outward RETF loads the caller's stack and drops segments that ring 3 may not keep
descriptor FREE, 0xffff, 0x00cf9f00
movw $FREE, %ax
movw %ax, %fs
movw $DATA32, %ax
movw %ax, %gs
pushl $UDATA
pushl $STACK3
pushl $UCODE32
pushl $(1f - guest + LOAD)
movl $0, V_A
pushfl
orl $0x3000, (%esp)
popfl
lretl
1:
movw $UDATA, %ax
xchgw %bx, %ax
movw %ds, %cx
movw %bx, %ds
expect_w "DS was nulled", %cx, 0
movw %fs, %cx
expect_w "conforming code in FS stays", %cx, FREE
movw %gs, %cx
expect_w "GS was nulled", %cx, 0
expect_l "ESP", %esp, STACK3
pushl $CODE32
pushl $0
faults "RETF inwards", 13, CODE32, "lretl"
ring0
pass

program 32, "protected/mode-bits", pm_mode_bits
movl %cr0, %eax
andl $0x80000011, %eax
expect "PE and ET, no paging", 0x11
faults "PG without PE", 13, 0, "movl %eax, %cr0", "movl $0x80000000, %eax"
faults "NW without CD", 13, 0, "movl %eax, %cr0", "movl %cr0, %eax; orl $0x20000000, %eax; andl $0xbfffffff, %eax"
faults "a reserved bit of CR4", 13, 0, "movl %eax, %cr4", "movl $0x80000000, %eax"
faults "CR1", 6, 0, ".byte 0x0f, 0x20, 0xc8"
faults "CR5", 6, 0, ".byte 0x0f, 0x20, 0xe8"
movl %cr0, %eax
andl $0xfffffffe, %eax
lmsw %ax
movl %cr0, %eax
andl $1, %eax
expect "LMSW does not clear PE", 1
movl $0xb, %eax
lmsw %ax
smswl %eax
andl $0xf, %eax
expect "LMSW sets TS and MP", 0xb
clts
movl %cr0, %eax
andl $0xe, %eax
expect "CLTS clears TS only", 2
sgdtl V_A
expect_w "SGDT limit", V_A, 0xff
expect_l "SGDT base", V_A+2, GDT
sidtl V_A
expect_w "SIDT limit", V_A, 0xfff
expect_l "SIDT base", V_A+2, IDT
sldtl %eax
expect "SLDT", 0
pass
