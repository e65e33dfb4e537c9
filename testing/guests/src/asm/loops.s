# Loops whose addresses advance by constants, through several pages. Addresses are odd, so that accesses lie across the ends of pages.

program 64, "loops/arrays", loop_arrays
movl $DATA+3, %edi
xorl %eax, %eax
xorl %edx, %edx
1:
movb %dl, (%rdi,%rax)
leal 7(%rdx), %edx
incq %rax
cmpq $5000, %rax
jne 1b
movl $DATA+3, %esi
movl $625, %ecx
xorl %ebx, %ebx
1:
addq (%rsi), %rbx
addq $8, %rsi
subq $1, %rcx
jne 1b
expect_q "upwards", %rbx, 0x1500ecd7, 0xc2ae8540
movl $DATA+3, %esi
movl $1249, %ecx
xorl %ebx, %ebx
1:
leal (%rbx,%rbx,2), %ebx
addl (%rsi,%rcx,4), %ebx
decq %rcx
jns 1b
expect_l "downwards, scaled", %ebx, 0xc8441314
pass

program 64, "loops/copies", loop_copies
movl $DATA+3, %edi
xorl %eax, %eax
xorl %edx, %edx
1:
movb %dl, (%rdi,%rax)
leal 7(%rdx), %edx
incq %rax
cmpq $5000, %rax
jne 1b
movl $DATA+3+4992, %esi
movl $DATA+0x4005+4992, %edi
movl $625, %ecx
1:
movq (%rsi), %rax
movq %rax, (%rdi)
subq $8, %rsi
subq $8, %rdi
decq %rcx
jne 1b
xorl %ebx, %ebx
xorl %ecx, %ecx
movl $DATA+0x4005, %esi
1:
movzbl (%rsi), %eax
leal (%rbx,%rbx,4), %ebx
addl %eax, %ebx
incq %rsi
incq %rcx
cmpq $5000, %rcx
jne 1b
expect_l "the copy", %ebx, 0x7f381544
# in place, each to where the next begins
movl $DATA+0x1ff1, %esi
movl $64, %ecx
movq $0x1234567, %rax
movq %rax, (%rsi)
1:
movq (%rsi), %rdx
movq %rdx, 8(%rsi)
addq $8, %rsi
decq %rcx
jne 1b
expect_q "what was stored in the turn before", (%rsi), 0, 0x1234567
pass

program 64, "loops/own-code", loop_own
# a loop that runs into the code behind it
movl $(8f - guest + LOAD), %esi
movl $DATA+0x1040, %edi
movl $(9f - 8f), %ecx
cld
rep movsb
movl $3, %r12d
1:
movl $DATA+0x1040, %edx
leal (7f - 8f)(%rdx), %edi
movl $(9f - 7f - 1), %ecx
movb $0xb8, %al
call *%rdx
expect "what the loop made of it", 0xb8b8b8b8
movl $0x11111111, DATA+0x1040+(6f - 8f)+1
call *%rdx
expect "and what was made of it later", 0x11111111
decl %r12d
jnz 1b
pass
8:
testl %ecx, %ecx
jz 6f
5:
movb %al, (%rdi)
incq %rdi
decq %rcx
jne 5b
jmp 6f
7:
.fill 150, 1, 0x90
6:
movl $0, %eax
ret
9:
