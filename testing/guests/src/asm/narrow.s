# 32-bit code in flat segments, and where it is not flat any more.

program 32, "narrow/addresses", na_addresses
movl $100, %ebp
xorl %ebx, %ebx
1:
movl %ebp, DATA+0x10
movl $0xfffffff0, %ecx
addl (DATA+0x20)(%ecx), %ebx          # wraps
movl $0x80000000, %esi
addl (DATA+0x10)(%esi,%esi), %ebx
movl DATA+0x10, %eax                  # nothing but an offset
addl %eax, %ebx
movl %ebx, %eax
movl %eax, DATA+0x14
movb $0x11, %ah
movb %ah, DATA+0x18
addb DATA+0x18, %bl
movl $DATA, %edx
addr16 movw V_A, %ax
incl %edx
decl %edx
leal -4(%edx,%ebp,4), %eax
addl %eax, %ebx
decl %ebp
jnz 1b
expect_l "sums", %ebx, 0xc808b2a
pass

program 32, "narrow/stack", na_stack
movl %esp, %edi
movl $0x55, V_A
movl $1000, %ebp
xorl %ebx, %ebx
1:
pushl %ebp
pushl $-3
pushl $0x12345678
pushl V_A
call 2f
popl %eax
popl %eax
addl %eax, %ebx
popl %ecx
addl %ecx, %ebx
popl %ecx
addl %ecx, %ebx
movl $(3f - guest + LOAD), %eax
pushl $1
call *%eax
movl %eax, V_B
pushl $2
call *V_C
pushfl
popl %eax
andl $0x400, %eax
addl %eax, %ebx
decl %ebp
jnz 1b
expect_l "sums", %ebx, 0x1c798afc
movl %esp, %eax
subl %edi, %eax
expect "ESP is where it was", 0
movl $5, %ecx
xorl %eax, %eax
4:
incl %eax
loop 4b
jecxz 5f
unreachable "JECXZ"
5:
expect "LOOP", 5
pass
2:
pushl %ebp
movl %esp, %ebp
subl $16, %esp
movl $9, -8(%ebp)
addl -8(%ebp), %ebx
movl $(3f - guest + LOAD), V_C
leave
ret
3:
addl 4(%esp), %ebx
ret $4

# A stack pointer of all ones, and accesses across the end.
program 32, "narrow/ends", na_ends
movl $20, %ebp
1:
faults "across 4 GiB", 13, 0, "movl (%ecx), %eax", "movl $0xfffffffe, %ecx"
movl %esp, %edi
faults "LODS across 4 GiB", 13, 0, "lodsl", "movl $0xfffffffd, %esi"
movl %edi, %esp
decl %ebp
jnz 1b
pass

program 32, "narrow/layouts", na_layouts
# DS loses its limit and gets it back, in a loop; FS has a base, and a limit that is reached
descriptor FREE, ((DATA & 0xffff) << 16 | 0x0fff), 0x00409300 | (DATA >> 16 & 0xff)
descriptor (FREE+8), ((DATA & 0xffff) << 16 | 0xffff), 0x00cf9300 | (DATA >> 16 & 0xff)
movl $0x600df00d, DATA+0x40
movl $0x0badf00d, DATA-4
movl $100, %ebp
1:
movl $FREE+8, %eax
movw %ax, %fs
movl %fs:0x40, %ebx
expect_l "through a base", %ebx, 0x600df00d
movl $-4, %ecx
movl %fs:(%ecx), %ebx
expect_l "below a base", %ebx, 0x0badf00d
movl $FREE, %eax
movw %ax, %fs
movl %fs:0x40, %ebx
expect_l "within a limit", %ebx, 0x600df00d
faults "beyond a limit", 13, 0, "movl %fs:0x1000, %ebx"
movw $FREE, %ax
movw %ax, %es
movl %es:0x40, %ebx
expect_l "through ES", %ebx, 0x600df00d
movw $DATA32, %ax
movw %ax, %es
xorl %eax, %eax
movw %ax, %fs
faults "through a null FS", 13, 0, "movl %fs:0x40, %ebx"
decl %ebp
jnz 1b
pass

# Compatibility mode, with upper halves of registers that 64-bit code has left.
program 64, "narrow/compatibility", na_compat
movw $DATA32, %ax
movw %ax, %ds
movw %ax, %ss
movl $100, %ebp
movl $0, V_B
8:
movq $0xdeadbeef00000000 + DATA, %rbx
movq $0x1234567800000000, %rcx
movq $0xffffffff00000000 + 3f - guest + LOAD, %rsi
movl $77, DATA+0x30
ljmpl *1f - guest + LOAD
1: .long 2f - guest + LOAD
.word CODE32
.code32
2:
movl 0x30(%ebx,%ecx,8), %eax
addl %eax, V_B
jecxz 4f
unreachable "JECXZ looks at 32 bits"
4:
pushl %ebx
popl %edx
cmpl $DATA, %edx
jne 3f
jmp *%esi
unreachable "JMP ESI"
3:
call 5f
ljmpl $CODE64, $(6f - guest + LOAD)
5:
incl V_B
ret
.code64
6:
decl %ebp
jnz 8b
expect_l "a hundred rounds", V_B, 7800
pass

# Both kinds of code at ring 3 in turn, so that branches must not find the wrong one.
program 64, "narrow/turns", na_turns
movl $200, %ebp
xorl %ebx, %ebx
ring3_64 0x3002
movw $UDATA, %ax
movw %ax, %ds
8:
call 4f
ljmpl *1f - guest + LOAD
1: .long 2f - guest + LOAD
.word UCODE32
.code32
2:
call 4f
ljmpl $UCODE64, $(6f - guest + LOAD)
.code64
6:
decl %ebp
jnz 8b
expect_l "REX prefixes and INCs", %ebx, 600
ring0
pass
# 64-bit: INC RBX, and nothing is subtracted. 32-bit: DEC EAX, INC EBX, and minus one is subtracted.
4:
movl $0, %eax
.byte 0x48, 0xff, 0xc3
subl %eax, %ebx
ret

# What is pushed lies in two pages, and those who follow rely on the stack's check. The stack is elsewhere each time.
program 32, "narrow/push", na_push
movl %esp, %edi
movl $0x1234567, DATA+0xffe
movl $0x89abcdef, DATA+0x1002
xorl %ebx, %ebx
movl $100, %ecx
1:
subl $40, %esp
pushl DATA+0xffe
movl (%esp), %eax
popl %edx
cmpl %eax, %edx
jne 2f
subl DATA+0xffe, %eax
jne 2f
incl %ebx
2:
decl %ecx
jnz 1b
movl %edi, %esp
expect_l "all of them", %ebx, 100
pass
