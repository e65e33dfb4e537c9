# Loops whose addresses advance by constants, through several pages. Addresses are odd, so that accesses lie across the ends of pages.

# 5,000 bytes at an odd address: 0, 7, 14 and so on.
.macro fill_array
movl $DATA+3, %edi
xorl %eax, %eax
xorl %edx, %edx
1:
movb %dl, (%rdi,%rax)
leal 7(%rdx), %edx
incq %rax
cmpq $5000, %rax
jne 1b
.endm

# R14 keeps bits if RBX, or what the last of R12 turns stored, is not the sum of R12 places from R13 on. RDX and RAX are lost.
.macro compare_sums
call sum_of_places
subq %rdx, %rbx
orq %rbx, %r14
subq DATA+0x3ff0-8(,%r12,8), %rdx
orq %rdx, %r14
.endm

program 64, "loops/arrays", loop_arrays
fill_array
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
fill_array
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

program 64, "loops/short", loop_short
# a window of one page: the next one is not there
movq $(TABLES + 0x11007), TABLES+8
movq $(TABLES + 0x12007), TABLES+0x11000
movq $(TABLES + 0x13007), TABLES+0x12000
movq $(DATA + 7), TABLES+0x13000
movq $0, TABLES+0x13008
movabsq $0x8000000000, %r15
movl $1, %eax
xorl %ecx, %ecx
1:
movq %rax, (%r15,%rcx,8)
addq $3, %rax
incq %rcx
cmpq $512, %rcx
jne 1b
# 1 to 9 turns, from each of 12 places on to the end of the page, all of it three times
movl $3, %r10d
xorl %r14d, %r14d
4:
movl $1, %r12d
3:
movl $500, %r13d
2:
leaq (%r15,%r13,8), %rsi
xorl %ebx, %ebx
xorl %ecx, %ecx
1:
addq (%rsi,%rcx,8), %rbx
movq %rbx, DATA+0x3ff0(,%rcx,8)
incq %rcx
cmpq %r12, %rcx
jne 1b
compare_sums
incq %r13
leaq (%r13,%r12), %rax
cmpq $512, %rax
jbe 2b
incl %r12d
cmpl $10, %r12d
jne 3b
decl %r10d
jnz 4b
expect_q "sums of few", %r14, 0, 0
# the turn that leaves the page faults, whichever it is
movl $20, %r10d
4:
movl $1, %r12d
3:
movl $512, %r13d
subl %r12d, %r13d
movl $(9f - guest + LOAD), V_FIXUP
leaq (%r15,%r13,8), %rsi
xorl %ebx, %ebx
xorl %ecx, %ecx
1:
addq (%rsi,%rcx,8), %rbx
movq %rbx, DATA+0x3ff0(,%rcx,8)
incq %rcx
cmpq $9, %rcx
jne 1b
unreachable "the page behind"
9:
subq %r12, %rcx
orq %rcx, %r14
compare_sums
movq V_CR2, %rax
subq %r15, %rax
subq $0x1000, %rax
orq %rax, %r14
movl V_RIP, %eax
subl $(1b - guest + LOAD), %eax
orq %rax, %r14
incl %r12d
cmpl $9, %r12d
jne 3b
decl %r10d
jnz 4b
expect_q "faults in the turn that they belong to", %r14, 0, 0
pass
# RDX: the sum of R12 places from R13 on, 3ns + 3n(n-1)/2 + n. RAX is lost.
sum_of_places:
leaq -1(%r12), %rdx
imulq %r12, %rdx
imulq $3, %rdx
shrq %rdx
movq %r12, %rax
imulq %r13, %rax
leaq (%rax,%rax,2), %rax
addq %rax, %rdx
addq %r12, %rdx
ret
