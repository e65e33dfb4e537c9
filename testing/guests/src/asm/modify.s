# Self-modifying and cross-modifying code (SDM 3A §8.1.3). The processor sees its own stores at the next instruction
# boundary behind a branch; programs branch after they write, as the manual asks, unless the name says otherwise.

program 32, "modify/same-page", smc_same
movl $3, %ecx
xorl %ebx, %ebx
1:
movb $0xb0, %al
2:
movb $1, %dl                 # B2 01: the immediate is patched
movzbl %dl, %edx
addl %edx, %ebx
incb 2b - guest + LOAD + 1
decl %ecx
jnz 1b
expect_l "1 + 2 + 3", %ebx, 6
movl $100, %ecx
xorl %ebx, %ebx
1:
movl %ecx, 2f - guest + LOAD + 1
jmp 2f
2:
movl $0, %eax
addl %eax, %ebx
decl %ecx
jnz 1b
expect_l "a hundred patches", %ebx, 5050
pass

program 32, "modify/next-instruction", smc_next
movl $50, %ecx
xorl %ebx, %ebx
1:
movb $0x43, 2f - guest + LOAD     # INC EBX
jmp 2f
2: nop
movb $0x90, 3f - guest + LOAD
movb $0x90, 2b - guest + LOAD
jmp 3f
3: incl %ebx
nop
decl %ecx
jnz 1b
expect_l "patched in and out", %ebx, 50
pass

program 32, "modify/other-page", smc_other
# copies a function to another page, calls it, changes it, calls it again
movl $(8f - guest + LOAD), %esi
movl $DATA+0xffc, %edi
movl $(9f - 8f), %ecx
cld
rep movsb
movl $DATA+0xffc, %edx
call *%edx
expect "across the page", 0x11223344
movl $0x55667788, DATA+0xffd
call *%edx
expect "all its bytes", 0x55667788
movb $0x99, DATA+0x1000
call *%edx
expect "a byte of the second page", 0x99667788
movl $1000, %ecx
xorl %ebx, %ebx
1:
movl %ecx, DATA+0xffd
call *%edx
addl %eax, %ebx
decl %ecx
jnz 1b
expect_l "a thousand times", %ebx, 500500
pass
8:
movl $0x11223344, %eax
ret
9:

program 32, "modify/rep-movs", smc_rep
# REP MOVS overwrites what follows it
movl $(2f - guest + LOAD), %esi
movl $(1f - guest + LOAD), %edi
movl $3, %ecx
xorl %ebx, %ebx
cld
rep movsb
1:
nop
nop
nop
jmp 3f
2:
incl %ebx
incl %ebx
incl %ebx
3:
jmp 4f
4:
expect_l "executed once with either, but stored", 1b - guest + LOAD, 0xeb434343
movl $(2b - guest + LOAD), %esi
call 5f
expect_l "the new bytes now", %ebx, 6
pass
5:
cmpl $3, %ebx
je 6f
movl $3, %ebx
6:
pushl %ebx
movl $(7f - guest + LOAD), %edi
movl $3, %ecx
rep movsb
popl %ebx
jmp 7f
7:
nop
nop
nop
ret

program 32, "modify/alias", smc_alias, "pse"
paging32_on
pte 0, DATA+7
pte 1, DATA+7
movl $0x000001b8, DATA        # MOV EAX, 1; RET
movw $0xc300, DATA+4
movl $WINDOW, %edx
call *%edx
expect "first", 1
movl $0x2, WINDOW+0x1001
call *%edx
expect "changed through another linear address", 2
movl $WINDOW+0x1000, %ecx
call *%ecx
expect "executed there", 2
movl $3, DATA+1
call *%edx
expect "changed through the identity mapping", 3
# the same linear address, another page
movl $0x000007b8, DATA+0x1000
movw $0xc300, DATA+0x1004
pte 0, DATA+0x1007
call *%edx
expect "another page behind the same address", 7
pte 0, DATA+7
call *%edx
expect "and back", 3
pass

program 64, "modify/stack-code", smc_stack
# a trampoline built, run and overwritten on the stack, many times
movl $2000, %ecx
xorl %ebx, %ebx
1:
movb $0xb8, -64(%rsp)
movl %ecx, -63(%rsp)
movb $0xc3, -59(%rsp)
leaq -64(%rsp), %rdx
subq $128, %rsp
call *%rdx
addq $128, %rsp
addl %eax, %ebx
decl %ecx
jnz 1b
expect_l "sum", %ebx, 2001000
pass

program 64, "modify/dma", smc_dma
# the host stores into the loop that the guest is in
movl $0xfeeb9090, DATA        # NOP; NOP; JMP itself
movw $0xfeeb, DATA+2
movl $0xc3, DATA+8
host H_LATER+H_DMA, DATA, 0x90c39090, 30
movl $DATA, %edx
call *%rdx
expect_l "left the loop", DATA, 0x90c39090
host H_DMA, DATA, 0xc3401f0f, 0
call *%rdx
movl $0x1b8, DATA
movl $0xc300, DATA+4
call *%rdx
expect "one", 1
host H_DMA, DATA+1, 0x12345678, 0
call *%rdx
expect "what DMA stored", 0x12345678
pass

program 64, "modify/ahead", smc_ahead
# whoever is branched to overwrites the flags, and is not met; then it is changed to read them
leaq 6f(%rip), %rsi
movl $DATA+0x40, %edi
movl $(7f - 6f), %ecx
cld
rep movsb
movl $DATA+0x80, %edi
movl $0xc3c9854d, (%rdi)      # TEST R9, R9; RET
movl $DATA+0x40, %ebx
movl $1, %ecx
movl $1, %r8d
call *%rbx
expect "not taken", 2
movl $0xc3c0940f, (%rdi)      # SETE AL; RET
xorl %ecx, %ecx
movl $-1, %r8d
movl $0, %eax
call *%rbx
expect "zero is seen", 1
movl $5, %r8d
call *%rbx
expect "and so is another number", 0
movl $0xc3c0920f, (%rdi)      # SETB AL; RET
movl $-1, %r8d
call *%rbx
expect "and the carry", 1
pass
6:
addl $1, %r8d
movl DATA+0x800, %edx         # its check may use the flags
movl $0, %eax
jrcxz 6b + 0x40
movl $2, %eax
testl %edx, %edx
ret
7:

program 64, "modify/rewrite", smc_rewrite
# one block rewritten a hundred thousand times, called and jumped to from several places
movl $DATA, %edi
movl $100000, %ecx
xorl %ebx, %ebx
movb $0xb8, (%rdi)            # MOV EAX, imm32; RET
movb $0xc3, 5(%rdi)
1:
movl %ecx, 1(%rdi)
call *%rdi
testl $1, %ecx
jz 2f
call *%rdi
2:
addl %eax, %ebx
decl %ecx
jnz 1b
expect_l "sum modulo 2^32", %ebx, 0x2a06b550
pass
