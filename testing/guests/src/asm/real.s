# Real mode (SDM 3A chapter 21).

program 16, "real/segment-arithmetic", real_segments
movw $0x1234, %ax
movw %ax, %es
movw $0xbeef, %es:0x10
movw $0x1230, %ax
movw %ax, %fs
expect_w "segment times 16", %fs:0x50, 0xbeef
movw $0x2000, %ax
movw %ax, %ds
movw $0, %bx
movb $0x5a, 0xffff
movb $0xa5, 0x0
movw $0xffff, %bx
movb (%ebx), %cl
expect_b "last byte of a segment", %cl, 0x5a
movw $1, %si
movb (%bx,%si), %cl
expect_b "16-bit addresses wrap within the segment", %cl, 0xa5
xorw %ax, %ax
movw %ax, %ds
faults16 "word across the end of a segment", 13, "movw 0xffff, %ax"
faults16 "32-bit offset beyond the limit", 13, "movb (%ecx), %al", "movl $0x10000, %ecx"
faults16 "stack access across the limit", 12, "movw (%bp), %ax", "movw $0xffff, %bp"
movw $0xffff, %ax
movw %ax, %ds
movb $0x77, 0x10
expect_b "beyond 1 MiB with A20 open", 0x10, 0x77
xorw %ax, %ax
movw %ax, %ds
pass

program 16, "real/ivt", real_ivt
movw $(1f - guest + LOAD), 4*0x60
movw $0, 4*0x60+2
stc
sti
movw %sp, %si
int $0x60
90:
jmp 2f
1:
cli
popw %bx
popw %cx
popw %dx
expect_w "pushed IP", %bx, 90b - guest + LOAD
expect_w "pushed CS", %cx, 0
andw $0x0303, %dx
expect_w "pushed FLAGS have IF and CF", %dx, 0x0203
expect_w "three words were pushed", %sp, STACK16
pushw %dx
pushw %cx
pushw %bx
pushfw
popw %dx
andw $0x0300, %dx
expect_w "IF and TF are clear in the handler", %dx, 0
iretw
2:
pushfw
popw %dx
cli
andw $0x0201, %dx
expect_w "IRET restored the flags", %dx, 0x0201
expect_w "and the stack", %sp, STACK16
faults16 "divide error", 0, "divw %cx", "xorw %cx, %cx"
faults16 "invalid opcode", 6, "ud2"
movw $0, V_VEC
movw $(3f - guest + LOAD), V_FIXUP
int3
3:
expect_w "int3", V_VEC, 3
expect_w "int3 is a trap", V_RIP, 3b - guest + LOAD
movw $(3f - guest + LOAD), V_FIXUP
movb $0x7f, %al
addb $1, %al
into
3:
expect_w "into", V_VEC, 4
movw $5, V_A
movw $9, V_A+2
movw $10, %bx
faults16 "bound", 5, "bound %bx, V_A"
pass

program 16, "real/operand-size", real_operands
movl $0x12345678, %eax
pushl %eax
expect_w "32-bit push", %sp, STACK16-4
popw %bx
popw %cx
expect_w "its low word", %bx, 0x5678
expect_w "its high word", %cx, 0x1234
movl $0xffffffff, %ebx
movw $0, %bx
expect_l "a 16-bit move keeps the upper half", %ebx, 0xffff0000
movl $0x3, %edx
movl $DATA, %esi
leal 0x10(%esi,%edx,4), %edi
expect_l "32-bit addressing", %edi, DATA+0x1c
movl $0x10001, %ecx
xorw %bx, %bx
1: incw %bx
loop 1b
expect_w "LOOP counts CX", %bx, 1
expect_l "and leaves the upper half", %ecx, 0x10000
calll 2f
91:
jmp 3f
2:
movw %sp, %bp
expect_l "32-bit call pushes 4 bytes", (%bp), 91b - guest + LOAD
retl
3:
expect_w "stack balanced", %sp, STACK16
lcallw $0x0, $(4f - guest + LOAD)
jmp 5f
4:
expect_w "far call pushes 4 bytes", %sp, STACK16-4
lretw
5:
expect_w "stack balanced again", %sp, STACK16
movl $0xabcd0000, %eax
cbtw
cwtl
expect "cwde", 0
xorl %eax, %eax
smsww %ax
andl $1, %eax
expect "SMSW: protection off", 0
faults16 "LTR does not exist in real mode", 6, "ltr %ax"
faults16 "LAR does not exist in real mode", 6, "larw %ax, %bx"
faults16 "ARPL does not exist in real mode", 6, ".byte 0x63, 0xc0"
faults16 "an instruction of 16 bytes", 13, ".fill 15, 1, 0x66; nop"
pass

program 16, "real/unreal", real_unreal
movl $0x11223344, %ebx
lgdtl GDTR
movl %cr0, %eax
orb $1, %al
movl %eax, %cr0
jmp 1f
1:
movw $DATA32, %cx
movw %cx, %ds
andb $0xfe, %al
movl %eax, %cr0
ljmpw $0, $(2f - guest + LOAD)
2:
movl $DATA, %esi
movl %ebx, (%esi)
movl (%esi), %eax
expect "4 GiB limit stays in real mode", 0x11223344
xorw %ax, %ax
movw %ax, %ds
movl (%esi), %eax
expect "loading a selector keeps the limit", 0x11223344
expect_l "base follows the selector", GDT+8, 0xffff
pass

program 16, "real/strings", real_strings
movw $0x3000, %ax
movw %ax, %es
movw %ax, %ds
movw $0xfffe, %di
movw $4, %cx
movb $0xcc, %al
cld
rep stosb
movb %ds:0, %bl
movb %ds:1, %bh
movb %ds:0xffff, %dl
expect_w "STOS wraps around the segment", %bx, 0xcccc
expect_b "before the wrap", %dl, 0xcc
expect_w "DI after it", %di, 2
expect_w "CX after it", %cx, 0
std
movw $1, %di
movw $0x0102, %ax
stosw
expect_w "backwards", %di, 0xffff
cld
movl %ds:1, %eax
andl $0xffff, %eax
expect "stored", 0x0102
xorw %cx, %cx
movw $5, %si
rep movsb
expect_w "REP with CX 0 does nothing", %si, 5
pass

program 16, "real/protected-and-back", real_round_trip
lgdtl GDTR
movl %cr0, %eax
orb $1, %al
movl %eax, %cr0
ljmpl $CODE32, $(1f - guest + LOAD)
.code32
1:
movw $DATA32, %ax
movw %ax, %ds
movw %ax, %ss
movl $STACK0, %esp
movl $0x600dcafe, DATA
ljmpl $CODE16, $(2f - guest + LOAD)
.code16
2:
movw $DATA16, %ax
movw %ax, %ds
movw %ax, %ss
movl %cr0, %eax
andb $0xfe, %al
movl %eax, %cr0
ljmpw $0, $(3f - guest + LOAD)
3:
xorw %ax, %ax
movw %ax, %ds
movw %ax, %ss
movl $STACK16, %esp
movl $0, V_FIXUP
movl $DATA, %esi
faults16 "64 KiB limit again", 13, "movl (%esi), %eax"
pass

program 16, "real/idtr-limit", real_idt_limit
# A vector beyond the limit is a double fault's business when #GP's own vector is beyond it too.
movw $(1f - guest + LOAD), 4*8
lidtl 2f - guest + LOAD
90:
int $0x20
unreachable "INT beyond the IDT limit"
pass
2: .word 4*9-1
.long 0
1:
lidtl IVTR
popw %ax
movzwl %ax, %eax
expect "#DF pushes the IP of the INT", 90b - guest + LOAD
expect_w "and no error code", %sp, STACK16-4
pass

program 16, "io/real-mode", io_real
movw $0x204, %dx
movl $0xcafebabe, %eax
outl %eax, %dx
inl %dx, %eax
expect "IN 32", 0xcafebabe
movw $0x1000, %di
movw $2, %cx
cld
rep insw
expect_l "INSW", 0x1000, 0xbabebabe
pass

program 16, "irq/extint-real-mode", irq_extint_real
# virtual-wire mode out of reset, as a BIOS finds it; the vector goes through the IVT
movw $(1f - guest + LOAD), 4*8
movl $0x700, %eax
host H_INTR, 0x08
sti
movw $60000, %cx
2: loop 2b
cli
expect_w "taken in real mode", V_A, 1
host H_LATER+H_INTR, 0x08, 0, 20
sti
hlt
cli
expect_w "ends HLT", V_A, 2
pass
1:
incw V_A
iretw


program 16, "drive/triple-fault-16", dr_triple16
movw $0, 2f - guest + LOAD
lidtl 2f - guest + LOAD
int $3
unreachable "no IVT"
pass
2: .word 0
.long 0

program 16, "drive/compute-16", dr_compute16
movl $1, %ebx
movl $STEPS, %esi
xorl %edi, %edi
1:
movl %ebx, %eax
shll $13, %eax
xorl %eax, %ebx
movl %ebx, %eax
shrl $17, %eax
xorl %eax, %ebx
movl %ebx, %eax
shll $5, %eax
xorl %eax, %ebx
pushw %bx
popw %cx
addw %cx, %di
movw %bx, %bp
andw $0xffe, %bp
addw %di, %ds:0x1000(%bp)
testl $0x7ff, %esi
jnz 9f
movl $H_STOP, %eax
outl %eax, $P_HOST
9:
decl %esi
jnz 1b
movl %edi, %eax
outl %eax, $0x80
movl 0x1040, %eax
outl %eax, $0x80
movl %ebx, %eax
expect "xorshift", COMPUTED
pass

program 16, "drive/random-16", dr_random16
movw $0, %di
1:
movw $0x5000, 2(%di)
addw $4, %di
cmpw $0x400, %di
jne 1b
ljmpw $0x4000, $0
