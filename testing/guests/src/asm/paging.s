# Paging: 32-bit and PAE (SDM 3A chapter 4). The permission matrix of 4-level paging is in matrix.s.

.set WINDOW, 0x08000000      # linear addresses of the pages that programs play with
.macro pfaults name, err, cr2, insn, before=""
faults "\name", 14, \err, "\insn", "\before"
expect_l "\name: cr2", V_CR2, \cr2
.endm

# 32-bit paging: 16 MiB of identity in 4 MiB pages, a page table for WINDOW at TABLES+1000h.
.macro paging32_on
movl %cr4, %eax
orl $0x10, %eax
movl %eax, %cr4
movl $0x87, TABLES
movl $0x400087, TABLES+4
movl $0x800087, TABLES+8
movl $0xc00087, TABLES+12
movl $(APIC & 0xffc00000 | 0x93), TABLES+0xfec
movl $(TABLES + 0x1007), TABLES+(WINDOW >> 20)
movl $TABLES, %eax
movl %eax, %cr3
movl %cr0, %eax
orl $0x80000000, %eax
movl %eax, %cr0
jmp 68f
68:
.endm
.macro pte n, value
movl $(\value), TABLES+0x1000+4*\n
invlpg WINDOW+0x1000*\n
.endm

program 32, "paging/32-bit", pg_32, "pse"
paging32_on
pte 0, 0
pfaults "read of nothing", 0, WINDOW+0x123, "movl WINDOW+0x123, %eax"
pfaults "write of nothing", 2, WINDOW+8, "movl %eax, WINDOW+8"
pfaults "read-modify-write of nothing", 2, WINDOW+8, "incl WINDOW+8"
pte 0, DATA+1
movl $0x11223344, DATA
expect_l "read-only, supervisor", WINDOW, 0x11223344
works "write without WP", "movl $0x55667788, WINDOW"
expect_l "arrives", DATA, 0x55667788
movl %cr0, %eax
orl $0x10000, %eax
movl %eax, %cr0
pfaults "write with WP", 3, WINDOW+4, "movl %eax, WINDOW+4"
pte 0, DATA+3
works "write of a writable page with WP", "movl $5, WINDOW"
ring3_32
pfaults "ring 3: read of a supervisor page", 5, WINDOW, "movl WINDOW, %eax"
pfaults "ring 3: write of a supervisor page", 7, WINDOW, "movl %eax, WINDOW"
pfaults "ring 3: read of nothing", 4, 0x18000000, "movl 0x18000000, %eax"
pfaults "ring 3: write of nothing", 6, 0x18000000, "movl %eax, 0x18000000"
ring0
pte 0, DATA+5
ring3_32
works "ring 3: read of a user page", "movl WINDOW, %eax"
pfaults "ring 3: write of a read-only page", 7, WINDOW+8, "movl %eax, WINDOW+8"
ring0
# the directory's rights count too
andl $0xfffffffd, TABLES+(WINDOW >> 20)
pte 0, DATA+7
movl %cr3, %eax
movl %eax, %cr3
pfaults "read-only directory entry", 3, WINDOW, "movl %eax, WINDOW"
orl $2, TABLES+(WINDOW >> 20)
andl $0xfffffffb, TABLES+(WINDOW >> 20)
movl %cr3, %eax
movl %eax, %cr3
ring3_32
pfaults "supervisor directory entry", 5, WINDOW, "movl WINDOW, %eax"
ring0
orl $4, TABLES+(WINDOW >> 20)
# a 4 MiB page with a reserved bit (bit 21)
movl $0x00200087, TABLES+(WINDOW >> 20)+4
pfaults "reserved bit of a 4 MiB page", 9, WINDOW+0x400000, "movl WINDOW+0x400000, %eax"
pass

program 32, "paging/accessed-dirty", pg_ad, "pse"
paging32_on
andl $0xffffff9f, TABLES+(WINDOW >> 20)
pte 0, DATA+7
movl %cr3, %eax
movl %eax, %cr3
expect_l "clear at first", TABLES+0x1000, DATA+7
movl WINDOW, %eax
expect_l "a read sets A", TABLES+0x1000, DATA+0x27
movl TABLES+(WINDOW >> 20), %eax
andl $0x60, %eax
expect "and A of the directory", 0x20
movl %eax, WINDOW
expect_l "a write sets D", TABLES+0x1000, DATA+0x67
movl TABLES+(WINDOW >> 20), %eax
andl $0x60, %eax
expect "and no D in the directory", 0x20
pte 0, DATA+7
movl %eax, WINDOW
expect_l "a write sets both", TABLES+0x1000, DATA+0x67
pte 0, DATA+7
incl WINDOW
expect_l "a read-modify-write sets both", TABLES+0x1000, DATA+0x67
pte 0, DATA+7
xorl %eax, %eax
movl $1, %ecx
cmpxchgl %ecx, WINDOW
expect_l "a failing CMPXCHG too", TABLES+0x1000, DATA+0x67
movl $0x400087, TABLES+(WINDOW >> 20)+4
movl %cr3, %eax
movl %eax, %cr3
movl WINDOW+0x400000, %eax
expect_l "4 MiB page: A", TABLES+(WINDOW >> 20)+4, 0x4000a7
movl %eax, WINDOW+0x400000
expect_l "4 MiB page: D", TABLES+(WINDOW >> 20)+4, 0x4000e7
pte 0, DATA+5
movl %cr0, %eax
orl $0x10000, %eax
movl %eax, %cr0
pfaults "a forbidden write", 3, WINDOW, "movl %eax, WINDOW"
movl TABLES+0x1000, %eax
andl $0x40, %eax
expect "leaves D clear", 0
pass

program 32, "paging/invalidation", pg_inval, "pse"
paging32_on
movl $1, DATA
movl $2, DATA+0x1000
pte 0, DATA+7
expect_l "first page", WINDOW, 1
movl $(DATA + 0x1007), TABLES+0x1000
invlpg WINDOW+0xfff
expect_l "INVLPG with any address of the page", WINDOW, 2
movl $(DATA + 0x7), TABLES+0x1000
movl %cr3, %eax
movl %eax, %cr3
expect_l "MOV CR3", WINDOW, 1
movl %cr0, %eax
andl $0x7fffffff, %eax
movl %eax, %cr0
jmp 1f
1:
movl $(DATA + 0x1007), TABLES+0x1000
orl $0x80000000, %eax
movl %eax, %cr0
jmp 1f
1:
expect_l "turning paging off and on", WINDOW, 2
# from not present to present needs no invalidation
pte 1, 0
pfaults "not present", 0, WINDOW+0x1000, "movl WINDOW+0x1000, %eax"
movl $(DATA + 0x1007), TABLES+0x1004
expect_l "present now", WINDOW+0x1000, 2
# a fault invalidates the entry it was raised through
pte 1, DATA+0x1005
movl %cr0, %eax
orl $0x10000, %eax
movl %eax, %cr0
movl WINDOW+0x1000, %eax
pfaults "read-only", 3, WINDOW+0x1000, "movl %eax, WINDOW+0x1000"
movl $(DATA + 0x1007), TABLES+0x1004
works "after the fault the new rights hold", "movl %eax, WINDOW+0x1000"
movl %cr0, %eax
andl $0xfffeffff, %eax
movl %eax, %cr0
pte 1, DATA+0x1005
works "clearing WP", "movl %eax, WINDOW+0x1000"
pass

program 32, "paging/global", pg_global, "pge"
paging32_on
movl %cr4, %eax
orl $0x80, %eax
movl %eax, %cr4
movl $1, DATA
movl $2, DATA+0x1000
pte 0, DATA+0x107
expect_l "a global page", WINDOW, 1
movl $(DATA + 0x1107), TABLES+0x1000
invlpg WINDOW
expect_l "INVLPG drops it", WINDOW, 2
movl $(DATA + 0x107), TABLES+0x1000
movl %cr4, %eax
xorl $0x80, %eax
movl %eax, %cr4
expect_l "clearing PGE drops it", WINDOW, 1
pass

program 32, "paging/crossing", pg_cross, "pse"
paging32_on
pte 0, DATA+7
pte 1, 0
movl $0x11111111, DATA+0xffc
pfaults "read", 0, WINDOW+0x1000, "movl WINDOW+0xffe, %eax"
pfaults "write", 2, WINDOW+0x1000, "movl %eax, WINDOW+0xffd"
expect_l "stored nothing", DATA+0xffc, 0x11111111
pfaults "read-modify-write", 2, WINDOW+0x1000, "addl $1, WINDOW+0xffe"
expect_l "stored nothing", DATA+0xffc, 0x11111111
pfaults "XCHG", 2, WINDOW+0x1000, "xchgl %ecx, WINDOW+0xffe", "movl $77, %ecx"
expect_l "the register survives", %ecx, 77
pfaults "CMPXCHG8B", 2, WINDOW+0x1000, "cmpxchg8b WINDOW+0xffc"
expect_l "stored nothing", DATA+0xffc, 0x11111111
# string instructions stop where they fault, with exact counts
pte 1, 0
movl $WINDOW+0xff8, %edi
movl $4, %ecx
movl $0x22222222, %eax
cld
pfaults "REP STOS", 2, WINDOW+0x1000, "rep stosl"
expect_l "two were stored", %ecx, 2
expect_l "EDI", %edi, WINDOW+0x1000
expect_l "the stored ones", DATA+0xffc, 0x22222222
movl $WINDOW+0xffc, %esi
movl $DATA+0x3000, %edi
movl $4, %ecx
pfaults "REP MOVS", 0, WINDOW+0x1000, "rep movsl"
expect_l "one was moved", %ecx, 3
expect_l "ESI", %esi, WINDOW+0x1000
expect_l "EDI", %edi, DATA+0x3004
movl $WINDOW+0xffe, %esi
movl $4, %ecx
movl $DATA+0x3000, %edi
pfaults "REP MOVS across the page", 0, WINDOW+0x1000, "rep movsl"
expect_l "nothing was moved", %ecx, 4
# code that runs into a missing page
movb $0x90, DATA+0xffe
movb $0xb8, DATA+0xfff
movl $1f - guest + LOAD, V_FIXUP
movl $WINDOW+0xffe, %ecx
jmp *%ecx
1:
expect_l "fetch across: vector", V_VEC, 14
expect_l "fetch across: cr2 is the missing byte", V_CR2, WINDOW+0x1000
expect_l "fetch across: eip is the instruction", V_RIP, WINDOW+0xfff
# a far pointer, a descriptor table register
movl $5, %ecx
pfaults "LES across", 0, WINDOW+0x1000, "les WINDOW+0xffe, %ecx"
expect_l "the register survives", %ecx, 5
pfaults "LGDT across", 0, WINDOW+0x1000, "lgdtl WINDOW+0xffd"
sgdtl V_A
expect_l "GDTR survives", V_A+2, GDT
pass

program 32, "paging/pae", pg_pae, "pae nx"
movl $(TABLES + 0x1001), TABLES
movl $0, TABLES+4
movl $(TABLES + 0x2001), TABLES+0x18
movl $0, TABLES+0x1c
movl $0, TABLES+8
movl $0, TABLES+12
movl $0, TABLES+16
movl $0, TABLES+20
movl $0x87, %eax
movl $TABLES+0x1000, %edi
1:
movl %eax, (%edi)
movl $0, 4(%edi)
addl $8, %edi
addl $0x200000, %eax
cmpl $0x01000087, %eax
jne 1b
movl $(TABLES + 0x3007), TABLES+0x1000+(WINDOW >> 18)
movl $(DATA + 7), TABLES+0x3000
movl $0, TABLES+0x3004
movl %cr4, %eax
orl $0x20, %eax
movl %eax, %cr4
movl $TABLES, %eax
movl %eax, %cr3
movl %cr0, %eax
orl $0x80010000, %eax
movl %eax, %cr0
jmp 1f
1:
movl $0xc3, DATA
works "read, write and execute", "movl WINDOW, %eax; movl %eax, WINDOW; movl $WINDOW, %ecx; call *%ecx"
pfaults "not present", 2, WINDOW+0x1000, "movl %eax, WINDOW+0x1000"
movl $0x80000000, TABLES+0x3004
invlpg WINDOW
pfaults "NX is reserved without NXE", 9, WINDOW, "movl WINDOW, %eax"
movl $0xc0000080, %ecx
rdmsr
orl $0x800, %eax
wrmsr
works "NX does not stop reads", "movl WINDOW, %eax"
movl $2f - guest + LOAD, V_FIXUP
movl $-1, V_VEC
movl $WINDOW, %ecx
jmp *%ecx
2:
expect_l "execution: vector", V_VEC, 14
expect_l "execution: error code", V_ERR, 0x11
expect_l "execution: cr2", V_CR2, WINDOW
movl $0, TABLES+0x3004
invlpg WINDOW
# page above 4 GiB must not alias
movl $0x10, TABLES+0x3004
invlpg WINDOW
movl $0x0badf00d, WINDOW+8
movl DATA+8, %eax
expect "no alias below 4 GiB", 0
movl $0, TABLES+0x3004
invlpg WINDOW
movl $0x20000000, TABLES+0x1000+(WINDOW >> 18)+12
movl $0x00000087, TABLES+0x1000+(WINDOW >> 18)+8
pfaults "reserved high bit of a 2 MiB page", 9, WINDOW+0x200000, "movl WINDOW+0x200000, %eax"
movl $0x00002087, TABLES+0x1000+(WINDOW >> 18)+8
movl $0, TABLES+0x1000+(WINDOW >> 18)+12
pfaults "reserved low bit of a 2 MiB page", 9, WINDOW+0x200000, "movl WINDOW+0x200000, %eax"
movl $0x7, TABLES+8
movl %cr3, %eax
faults "reserved bits of a PDPTE at MOV CR3", 13, 0, "movl %eax, %cr3", "movl $TABLES, %eax"
movl $0, TABLES+8
works "CR3 is sound", "movl $TABLES, %eax; movl %eax, %cr3"
pass

# 4-level: large pages, PCID, INVPCID. The program's own second PML4 is at TABLES+10000h.
program 64, "paging/large-pages", pg_large, "pdpe1gb"
# linear 1 GiB through a 1 GiB page onto 0
movl $0x87, TABLES+0x1008
movl $0, TABLES+0x100c
movq %cr3, %rax
movq %rax, %cr3
movl $0x12345678, DATA+0x10
movl $0x40000000+DATA, %ebx
expect_l "1 GiB page", 0x10(%rbx), 0x12345678
movl TABLES+0x1008, %eax
andl $0x60, %eax
expect "its A", 0x20
movl $1, 0x20(%rbx)
expect_l "a write through it", DATA+0x20, 1
movl TABLES+0x1008, %eax
andl $0x60, %eax
expect "its D", 0x60
movl $0x2087, TABLES+0x1008
movq %cr3, %rax
movq %rax, %cr3
pfaults "reserved bit of a 1 GiB page", 9, 0x40000000+DATA, "movl (%rbx), %eax"
movl $0x2083, TABLES+0x2008
invlpg 0x200000
movl $0x200000, %ebx
pfaults "reserved bit of a 2 MiB page", 9, 0x200000, "movl (%rbx), %eax"
movl $0x200083, TABLES+0x2008
# bit 7 of a PML4 entry is reserved
movl $(TABLES+0x1087), TABLES+8
movq $0x8000000000, %rbx
faults "bit 7 of a PML4 entry", 14, 9, "movl (%rbx), %eax"
pass

program 64, "paging/pcid", pg_pcid, "pcid"
movq %cr4, %rax
orl $0x20000, %eax
movq %rax, %cr4
# two spaces: PML4[1] maps one page each
movl $(TABLES + 0x1007), TABLES+0x10000
movl $(TABLES + 0x11007), TABLES+8
movl $(TABLES + 0x14007), TABLES+0x10008
movl $(TABLES + 0x12007), TABLES+0x11000
movl $(TABLES + 0x13007), TABLES+0x12000
movl $(DATA + 7), TABLES+0x13000
movl $(TABLES + 0x15007), TABLES+0x14000
movl $(TABLES + 0x16007), TABLES+0x15000
movl $(DATA + 0x1007), TABLES+0x16000
movl $1, DATA
movl $2, DATA+0x1000
movl $3, DATA+0x2000
movq $0x8000000000, %rbx
movl $TABLES+1, %esi
movl $TABLES+0x10000+2, %edi
movq %rsi, %cr3
expect_l "space 1", (%rbx), 1
movq %rdi, %cr3
expect_l "space 2", (%rbx), 2
movq %rsi, %rax
btsq $63, %rax
movq %rax, %cr3
expect_l "space 1 again, kept", (%rbx), 1
movq %cr3, %rax
expect_q "bit 63 is not stored", %rax, 0, TABLES+1
movl $(DATA + 0x2007), TABLES+0x13000
movq %rsi, %cr3
expect_l "MOV CR3 without bit 63 drops the space's entries", (%rbx), 3
movq %rdi, %cr3
faults "reserved bit of CR4", 13, 0, "movq %rax, %cr4", "movq %cr4, %rax; btsq $40, %rax"
pass

program 64, "paging/invpcid", pg_invpcid, "pcid invpcid"
movq %cr4, %rax
orl $0x20000, %eax
movq %rax, %cr4
movl $(TABLES + 0x11007), TABLES+8
movl $(TABLES + 0x12007), TABLES+0x11000
movl $(TABLES + 0x13007), TABLES+0x12000
movl $(DATA + 7), TABLES+0x13000
movl $1, DATA
movl $2, DATA+0x1000
movq $0x8000000000, %rbx
movl $TABLES+1, %esi
movq %rsi, %cr3
expect_l "at first", (%rbx), 1
movq $1, V_A
movq %rbx, V_A+8
movl $(DATA + 0x1007), TABLES+0x13000
xorl %eax, %eax
invpcid V_A, %rax
expect_l "an address", (%rbx), 2
movl $(DATA + 7), TABLES+0x13000
movl $1, %eax
invpcid V_A, %rax
expect_l "a PCID", (%rbx), 1
movl $(DATA + 0x1007), TABLES+0x13000
movl $2, %eax
invpcid V_A, %rax
expect_l "everything with globals", (%rbx), 2
movl $(DATA + 0x7), TABLES+0x13000
movl $3, %eax
invpcid V_A, %rax
expect_l "everything but globals", (%rbx), 1
faults "type 4", 13, 0, "invpcid V_A, %rax", "movl $4, %eax"
movq $0x1001, V_A
faults "reserved bits of the descriptor", 13, 0, "invpcid V_A, %rax", "movl $1, %eax"
pass
