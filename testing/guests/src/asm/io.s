# Ports and memory-mapped devices. The machine's latch gives back what was stored, and logs every access.

program 64, "io/ports", io_ports
movw $0x200, %dx
movl $0x44332211, %eax
outl %eax, %dx
xorl %eax, %eax
inb %dx, %al
expect "IN 8", 0x11
xorl %eax, %eax
inw %dx, %ax
expect "IN 16", 0x2211
inl %dx, %eax
expect "IN 32", 0x44332211
movl $0xffffffff, %eax
movw $0x202, %dx
inw %dx, %ax
expect "IN 16 keeps the rest of EAX", 0xffff4433
movb $0x99, %al
movw $0x203, %dx
outb %al, %dx
movw $0x200, %dx
movq $-1, %rax
inl %dx, %eax
movq %rax, %rbx
expect_q "IN 32 clears the upper half of RAX", %rbx, 0, 0x99332211
inb $0x77, %al
movzbl %al, %eax
expect "nobody answers with all ones", 0xff
movb $0x5a, %al
outb %al, $0x77
inb $0x77, %al
movzbl %al, %eax
expect "an immediate port", 0x5a
pass

program 64, "io/strings", io_strings
movl $0x44332211, DATA
movl $0x88776655, DATA+4
movl $DATA, %esi
movl $2, %ecx
movw $0x208, %dx
cld
rep outsl
expect_l "RCX", %ecx, 0
expect_l "RSI", %esi, DATA+8
inl %dx, %eax
expect "the last one stays", 0x88776655
movl $DATA+0x100, %edi
movl $3, %ecx
rep insw
expect_l "INS stored", DATA+0x100, 0x66556655
movzwl DATA+0x104, %eax
expect "three words", 0x6655
expect_l "RDI", %edi, DATA+0x106
std
movl $DATA+0x201, %edi
movl $2, %ecx
rep insb
cld
movzwl DATA+0x200, %eax
expect "backwards", 0x5555
expect_l "RDI", %edi, DATA+0x1ff
xorl %ecx, %ecx
rep insb
expect_l "RCX 0", %edi, DATA+0x1ff
movl $0x200, %ecx
movl $DATA+0xf00, %edi
rep insb
expect_l "across a page", DATA+0xffe, 0x55555555
pass

program 64, "io/mmio-sizes", io_mmio
movl $MMIO, %ebx
movq $0x1122334455667788, %rax
movq %rax, (%rbx)
expect_q "64 bits", (%rbx), 0x11223344, 0x55667788
movl $0xaabbccdd, 8(%rbx)
expect_l "32 bits", 8(%rbx), 0xaabbccdd
movw $0x1234, 8(%rbx)
expect_l "16 bits", 8(%rbx), 0xaabb1234
movb $0x99, 11(%rbx)
expect_l "8 bits", 8(%rbx), 0x99bb1234
movzbl 9(%rbx), %eax
expect "zero extension", 0x12
movsbl 11(%rbx), %eax
expect "sign extension", 0xffffff99
movswl 10(%rbx), %eax
expect "sign extension of a word", 0xffff99bb
pass

program 64, "io/mmio-modify", io_rmw
movl $MMIO, %ebx
movl $5, (%rbx)
addl $3, (%rbx)
expect_l "ADD", (%rbx), 8
incl (%rbx)
expect_l "INC", (%rbx), 9
notl (%rbx)
expect_l "NOT", (%rbx), 0xfffffff6
andl $0xff, (%rbx)
expect_l "AND", (%rbx), 0xf6
btsl $9, (%rbx)
expect_l "BTS", (%rbx), 0x2f6
shll $4, (%rbx)
expect_l "SHL", (%rbx), 0x2f60
movl $0x1111, %ecx
xchgl %ecx, (%rbx)
expect_l "XCHG stored", (%rbx), 0x1111
expect_l "XCHG loaded", %ecx, 0x2f60
lock xaddl %ecx, (%rbx)
expect_l "LOCK XADD stored", (%rbx), 0x4071
expect_l "LOCK XADD loaded", %ecx, 0x1111
movl $0x4071, %eax
movl $7, %ecx
lock cmpxchgl %ecx, (%rbx)
setz %dl
expect_l "LOCK CMPXCHG stored", (%rbx), 7
expect_b "and ZF", %dl, 1
pushq (%rbx)
popq %rcx
expect_b "PUSH", %cl, 7

pushq $0x3344
popq 16(%rbx)
expect_l "POP", 16(%rbx), 0x3344
cmpl $7, (%rbx)
setz %dl
expect_b "CMP", %dl, 1
pass

program 64, "io/mmio-strings", io_mmio_str
movl $0x03020100, DATA
movl $0x07060504, DATA+4
movl $DATA, %esi
movl $MMIO+0x100, %edi
movl $8, %ecx
cld
rep movsb
movl $MMIO+0x100, %esi
movl $DATA+0x100, %edi
movl $2, %ecx
rep movsl
expect_l "there and back", DATA+0x104, 0x07060504
movl $MMIO+0x200, %edi
movl $4, %ecx
movl $0x5a, %eax
rep stosb
movl $MMIO+0x200, %esi
lodsl
expect "STOS and LODS", 0x5a5a5a5a
movl $MMIO+0x200, %esi
movl $MMIO+0x100, %edi
movl $4, %ecx
repne cmpsb
expect_l "CMPS", %ecx, 0
movl $MMIO+0x100, %edi
movl $8, %ecx
movb $5, %al
repne scasb
expect_l "SCAS", %ecx, 2
pass

program 64, "io/ram-edge", io_edge
# RAM ends at 16 MiB
movl $RAM_END-2, %ebx
movl $0x44332211, (%rbx)
movw (%rbx), %cx
expect_w "the part in RAM", %cx, 0x2211
movw 2(%rbx), %cx
expect_w "the part behind it", %cx, 0x4433
expect_l "both", (%rbx), 0x44332211
addl $0x01010101, (%rbx)
expect_l "read-modify-write across", (%rbx), 0x45342312
movl $RAM_END-4, %esi
movl $DATA, %edi
movl $8, %ecx
movl $0x07060504, 4(%rsi)
movl $0x03020100, (%rsi)
cld
rep movsb
expect_l "REP MOVS across", DATA+4, 0x07060504
pass

program 64, "io/mmio-sse", io_sse, "sse2"
movq %cr4, %rax
orl $0x600, %eax
movq %rax, %cr4
movl $MMIO, %ebx
movl $0x11111111, %eax
movd %eax, %xmm0
pshufd $0, %xmm0, %xmm0
movdqu %xmm0, (%rbx)
pxor %xmm1, %xmm1
movdqu (%rbx), %xmm1
pcmpeqb %xmm0, %xmm1
pmovmskb %xmm1, %eax
expect "16 bytes", 0xffff
movq %xmm0, 32(%rbx)
expect_l "8 bytes", 36(%rbx), 0x11111111
movl $3, 48(%rbx)
fninit
fildl 48(%rbx)
fistpl 52(%rbx)
expect_l "x87", 52(%rbx), 3
pass

