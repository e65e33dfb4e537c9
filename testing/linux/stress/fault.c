// Exceptions in the middle of code: the handler must find every register and flag as the instructions before the faulting one
// left them, nothing of the faulting one, and the address of the fault. The handler then changes registers, and those must be in
// force afterwards.
#include "stress.h"
#include <fenv.h>

#ifdef __x86_64__
enum { REGS = 16 };
// Indices into gregs, in the order of instruction encodings.
static const int greg[REGS] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
enum { IP = REG_RIP, SP = REG_RSP };
#define SEED 0x9e3779b97f4a7c15
#else
enum { REGS = 8 };
static const int greg[REGS] = {REG_EAX, REG_ECX, REG_EDX, REG_EBX, REG_ESP, REG_EBP, REG_ESI, REG_EDI};
enum { IP = REG_EIP, SP = REG_ESP };
#define SEED 0x9e3779b9
#endif
typedef unsigned long word;
enum { AX, CX, DX, BX, SPX, BP, SI, DI };
enum { CF = 1, PF = 4, AF = 16, ZF = 64, SF = 128, OF = 2048, STATUS = CF | PF | AF | ZF | SF | OF };

// Registers on entry, and code to jump to; the way out and the stack to leave with.
word probe_in[REGS + 1], probe_flags, probe_code, probe_stack, probe_out[REGS];
void probe(void);
extern char probe_done[];
#ifdef __x86_64__
__asm__(".text\n.globl probe\nprobe:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, probe_stack(%rip)\n"
        "push probe_flags(%rip); popf\n"
        "mov probe_in+8(%rip), %rcx; mov probe_in+16(%rip), %rdx; mov probe_in+24(%rip), %rbx\n"
        "mov probe_in+40(%rip), %rbp; mov probe_in+48(%rip), %rsi; mov probe_in+56(%rip), %rdi\n"
        "mov probe_in+64(%rip), %r8; mov probe_in+72(%rip), %r9; mov probe_in+80(%rip), %r10\n"
        "mov probe_in+88(%rip), %r11; mov probe_in+96(%rip), %r12; mov probe_in+104(%rip), %r13\n"
        "mov probe_in+112(%rip), %r14; mov probe_in+120(%rip), %r15; mov probe_in(%rip), %rax\n"
        "jmp *probe_code(%rip)\n"
        ".globl probe_done\nprobe_done:\n"
        "mov %rax, probe_out(%rip); mov %rcx, probe_out+8(%rip); mov %rdx, probe_out+16(%rip); mov %rbx, probe_out+24(%rip)\n"
        "mov %rsp, probe_out+32(%rip); mov %rbp, probe_out+40(%rip); mov %rsi, probe_out+48(%rip); mov %rdi, probe_out+56(%rip)\n"
        "mov %r8, probe_out+64(%rip); mov %r9, probe_out+72(%rip); mov %r10, probe_out+80(%rip); mov %r11, probe_out+88(%rip)\n"
        "mov %r12, probe_out+96(%rip); mov %r13, probe_out+104(%rip); mov %r14, probe_out+112(%rip); mov %r15, probe_out+120(%rip)\n"
        "mov probe_stack(%rip), %rsp; cld\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\nret\n");
#else
__asm__(".text\n.globl probe\nprobe:\n"
        "push %ebx; push %ebp; push %esi; push %edi\n"
        "mov %esp, probe_stack\n"
        "pushl probe_flags; popf\n"
        "mov probe_in+4, %ecx; mov probe_in+8, %edx; mov probe_in+12, %ebx\n"
        "mov probe_in+20, %ebp; mov probe_in+24, %esi; mov probe_in+28, %edi; mov probe_in, %eax\n"
        "jmp *probe_code\n"
        ".globl probe_done\nprobe_done:\n"
        "mov %eax, probe_out; mov %ecx, probe_out+4; mov %edx, probe_out+8; mov %ebx, probe_out+12\n"
        "mov %esp, probe_out+16; mov %ebp, probe_out+20; mov %esi, probe_out+24; mov %edi, probe_out+28\n"
        "mov probe_stack, %esp; cld\n"
        "pop %edi; pop %esi; pop %ebp; pop %ebx\nret\n");
#endif

static siginfo_t info;
static int number;
static word seen[REGS], seen_ip, seen_flags, trap_number, error_code, cr2;
static word changed[REGS];

static void handler(int n, siginfo_t *i, void *context) {
    ucontext_t *c = context;
    // Signals come with the alignment checks of what they interrupt; compilers do not keep to them.
#ifdef __x86_64__
    __asm__ volatile("pushf; andl $~0x40000, (%%rsp); popf" : : : "memory", "cc");
#else
    __asm__ volatile("pushf; andl $~0x40000, (%%esp); popf" : : : "memory", "cc");
#endif
    number = n, info = *i;
    for (int k = 0; k < REGS; k++) seen[k] = c->uc_mcontext.gregs[greg[k]];
    seen_ip = c->uc_mcontext.gregs[IP];
    seen_flags = c->uc_mcontext.gregs[REG_EFL];
    trap_number = c->uc_mcontext.gregs[REG_TRAPNO];
    error_code = c->uc_mcontext.gregs[REG_ERR];
#ifdef __x86_64__
    cr2 = c->uc_mcontext.gregs[REG_CR2];
#else
    cr2 = c->uc_mcontext.cr2;
#endif
    for (int k = 0; k < REGS; k++)
        if (k != SPX) c->uc_mcontext.gregs[greg[k]] = changed[k];
    c->uc_mcontext.gregs[IP] = (word)probe_done;
    c->uc_mcontext.gregs[REG_EFL] &= ~(word)(0x40000 | 0x100 | 0x400);
}

static void catch_faults(void) {
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    // A stack of its own: the test's stack pointer may be anything.
    stack_t stack = {.ss_sp = pages(16, PROT_READ | PROT_WRITE), .ss_size = 16 * PAGE};
    sigaltstack(&stack, 0);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, 0);
}

struct fault;
static bool overwrites_flags(const struct fault *f);

// A fault: bytes of the instruction, what it needs in registers, and what must come of it.
struct fault {
    const char *name;
    uint8_t bytes[15];
    uint8_t length;
    int signal, code;
    // Vector; whether it is a trap, reported behind the instruction.
    int vector;
    bool trap;
};
// Addresses that the table's instructions use: in register SI (unmapped or read-only), set by the caller.
#define I(...) {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__})
static const struct fault faults[] = {
    {"load", I(0x8b, 0x06), SIGSEGV, SEGV_MAPERR, 14, false},                         // mov eax, [si]
    {"store", I(0x89, 0x06), SIGSEGV, SEGV_MAPERR, 14, false},                        // mov [si], eax
    {"add to memory", I(0x01, 0x1e), SIGSEGV, SEGV_MAPERR, 14, false},                // add [si], ebx
    {"add from memory", I(0x03, 0x1e), SIGSEGV, SEGV_MAPERR, 14, false},              // add ebx, [si]
    {"cmp", I(0x39, 0x16), SIGSEGV, SEGV_MAPERR, 14, false},                          // cmp [si], edx
    {"adc", I(0x11, 0x16), SIGSEGV, SEGV_MAPERR, 14, false},                          // adc [si], edx
    {"xadd", I(0xf0, 0x0f, 0xc1, 0x06), SIGSEGV, SEGV_MAPERR, 14, false},             // lock xadd [si], eax
    {"cmpxchg", I(0xf0, 0x0f, 0xb1, 0x0e), SIGSEGV, SEGV_MAPERR, 14, false},          // lock cmpxchg [si], ecx
    {"xchg", I(0x87, 0x06), SIGSEGV, SEGV_MAPERR, 14, false},                         // xchg [si], eax
    {"setc", I(0x0f, 0x92, 0x06), SIGSEGV, SEGV_MAPERR, 14, false},                   // setc [si]
    {"shl", I(0xd3, 0x26), SIGSEGV, SEGV_MAPERR, 14, false},                          // shl dword [si], cl
    {"push from memory", I(0xff, 0x36), SIGSEGV, SEGV_MAPERR, 14, false},             // push [si]
    {"pop to memory", I(0x8f, 0x06), SIGSEGV, SEGV_MAPERR, 14, false},                // pop [si]
    {"call through memory", I(0xff, 0x16), SIGSEGV, SEGV_MAPERR, 14, false},          // call [si]
    {"call nowhere", I(0xff, 0xd6), SIGSEGV, SEGV_MAPERR, 14, false},                 // call si: faults at the target
    {"lods", I(0xac), SIGSEGV, SEGV_MAPERR, 14, false},                               // lodsb
    {"movsd from memory", I(0xf2, 0x0f, 0x10, 0x06), SIGSEGV, SEGV_MAPERR, 14, false},// movsd xmm0, [si]
    {"movaps to memory", I(0x0f, 0x29, 0x06), SIGSEGV, SEGV_MAPERR, 14, false},       // movaps [si], xmm0
    {"fld", I(0xdd, 0x06), SIGSEGV, SEGV_MAPERR, 14, false},                          // fld qword [si]
    {"ud2", I(0x0f, 0x0b), SIGILL, ILL_ILLOPN, 6, false},
    {"int3", I(0xcc), SIGTRAP, SI_KERNEL, 3, true},
    {"int 3", I(0xcd, 0x03), SIGTRAP, SI_KERNEL, 3, true},
    {"hlt", I(0xf4), SIGSEGV, SI_KERNEL, 13, false},
    {"cli", I(0xfa), SIGSEGV, SI_KERNEL, 13, false},
    {"in", I(0xec), SIGSEGV, SI_KERNEL, 13, false},
    {"mov cr0", I(0x0f, 0x20, 0xc0), SIGSEGV, SI_KERNEL, 13, false},
    {"wrmsr", I(0x0f, 0x30), SIGSEGV, SI_KERNEL, 13, false},
    {"invlpg", I(0x0f, 0x01, 0x3e), SIGSEGV, SI_KERNEL, 13, false},
    {"lock nop", I(0xf0, 0x90), SIGILL, ILL_ILLOPN, 6, false},
    {"int 80h of user space with no gate: 77h", I(0xcd, 0x77), SIGSEGV, SI_KERNEL, 13, false},
    {"div by zero", I(0x31, 0xc9, 0xf7, 0xf1), SIGFPE, FPE_INTDIV, 0, false},         // xor ecx, ecx; div ecx
    {"idiv overflow", I(0x99, 0xf7, 0xfb), SIGFPE, FPE_INTDIV, 0, false},             // cdq; idiv ebx, set up by the caller
};

// It leaves nothing of the status flags, so that no program can need them once it is done. Translated code does not keep them for
// it, and a fault shows others (QUIRKS.md).
static bool overwrites_flags(const struct fault *f) {
    static const uint8_t arithmetic[] = {0x01, 0x03, 0x39};
    bool locked = f->bytes[0] == 0xf0 && f->bytes[1] == 0x0f;
    return memchr(arithmetic, f->bytes[0], sizeof arithmetic) || locked;
}

static void start_values(void) {
    word v = SEED;
    for (int k = 0; k < REGS; k++) {
        v = v * 5 + 0x1234567 + rnd() % 1000;
        probe_in[k] = v;
        changed[k] = ~v;
    }
}

static void expect(const struct fault *f, word expected[REGS], word expected_flags, word ip) {
    CHECK(number == f->signal, "%s: signal %d", f->name, number);
    CHECK(info.si_code == f->code, "%s: si_code %d", f->name, info.si_code);
    CHECK((int)trap_number == f->vector, "%s: vector %ld", f->name, (long)trap_number);
    CHECK(seen_ip == ip, "%s: at %#lx instead of %#lx", f->name, (unsigned long)seen_ip, (unsigned long)ip);
    for (int k = 0; k < REGS; k++)
        CHECK(seen[k] == expected[k], "%s: register %d is %#lx instead of %#lx", f->name, k, (unsigned long)seen[k], (unsigned long)expected[k]);
    CHECK(overwrites_flags(f) || ((seen_flags ^ expected_flags) & STATUS) == 0, "%s: flags %#lx instead of %#lx", f->name, (unsigned long)seen_flags & STATUS,
          (unsigned long)expected_flags & STATUS);
    for (int k = 0; k < REGS; k++)
        if (k != SPX) CHECK(probe_out[k] == changed[k], "%s: register %d was not taken over from the handler", f->name, k);
}

// What comes before each fault: three instructions whose results and flags only show if the state is exact.
//   lea edi/rdi, [dx + bx*2 + 7]; xor ebp/rbp, edi/rdi; sub eax/rax, ebp/rbp
#ifdef __x86_64__
static const uint8_t before[] = {0x48, 0x8d, 0x7c, 0x5a, 0x07, 0x48, 0x31, 0xfd, 0x48, 0x29, 0xe8};
#else
static const uint8_t before[] = {0x8d, 0x7c, 0x5a, 0x07, 0x31, 0xfd, 0x29, 0xe8};
#endif

static word flags_of_sub(word a, word b) {
    word flags;
    __asm__ volatile("sub %2, %1\npushf\npop %0" : "=r"(flags), "+r"(a) : "r"(b) : "cc");
    return flags;
}

static void registers(void) {
    catch_faults();
    uint8_t *code = pages(1, RWX);
    uint8_t *hole = pages(3, PROT_READ | PROT_WRITE);
    munmap(hole + PAGE, PAGE);
    for (long round = 0; round < rounds(20); round++) {
        for (unsigned n = 0; n < sizeof faults / sizeof *faults; n++) {
            const struct fault *f = &faults[n];
            uint8_t *at = code + rnd() % 2000;
            memcpy(at, before, sizeof before);
            uint8_t *fault_at = at + sizeof before;
            memcpy(fault_at, f->bytes, f->length);
            fault_at[f->length] = 0xf4;
            start_values();
            probe_in[SI] = (word)(hole + PAGE + rnd() % 200 * 16);
            probe_in[SPX] = 0;
            probe_flags = 0x202 | (rnd() & STATUS);
            probe_code = (word)at;
            word expected[REGS], ip = (word)fault_at;
            memcpy(expected, probe_in, sizeof expected);
            expected[DI] = expected[DX] + 2 * expected[BX] + 7;
            expected[BP] ^= expected[DI];
            word flags = flags_of_sub(expected[AX], expected[BP]);
            expected[AX] -= expected[BP];
            if (f->signal == SIGFPE) {
                // Set up so that the result is known: behind the three, eax must be 80000000h and ebx -1, or ecx zero.
                probe_in[BX] = -1;
                probe_in[DX] = 9;
                probe_in[BP] = expected[BP] = probe_in[DX] + 2 * probe_in[BX] + 7;
                probe_in[AX] = 0x80000000;
                expected[BX] = -1, expected[DX] = 9, expected[DI] = probe_in[BP], expected[BP] = 0, expected[AX] = 0x80000000;
                flags = flags_of_sub(0x80000000, 0);
                if (f->bytes[0] == 0x31) {
                    expected[CX] = 0;
                    flags = ZF | PF;
                    } else {
                    expected[DX] = (uint32_t)-1;
                }
                ip = (word)fault_at + (f->bytes[0] == 0x31 ? 2 : 1);
            }
            if (f->trap) ip += f->length;
            memset(seen, 0, sizeof seen);
            probe();
            expected[SPX] = probe_stack;
            if (!strcmp(f->name, "call nowhere")) {
                ip = probe_in[SI];
                expected[SPX] -= sizeof(word);
            }
            // AF is undefined behind a logical operation.
            if (f->bytes[0] == 0x31) seen_flags &= ~(word)AF;
            expect(f, expected, flags, ip);
            if (f->vector == 14) {
                CHECK(info.si_addr == (void *)probe_in[SI] && cr2 == probe_in[SI], "%s: address %p, cr2 %#lx instead of %#lx", f->name,
                      info.si_addr, (unsigned long)cr2, (unsigned long)probe_in[SI]);
                CHECK(error_code & 4, "%s: error code %#lx is not of user mode", f->name, (unsigned long)error_code);
            }
        }
    }
}

// A store into the second page faults after the first was writable: nothing of it may be done. Also string operations, which
// keep what they did.
static void halves(void) {
    catch_faults();
    uint8_t *data = pages(2, PROT_READ | PROT_WRITE), *code = pages(1, RWX), copy[64];
    for (long round = 0; round < rounds(300); round++) {
        MUST(mprotect(data, 2 * PAGE, PROT_READ | PROT_WRITE));
        for (int i = 0; i < 64; i++) data[PAGE - 64 + i] = rnd();
        memcpy(copy, data + PAGE - 64, 64);
        MUST(mprotect(data + PAGE, PAGE, PROT_READ));
        start_values();
        // mov [si], eax / movups [si], xmm0 / add [si], eax across the pages
        static const uint8_t stores[3][3] = {{0x89, 0x06, 0xf4}, {0x0f, 0x11, 0x06}, {0x01, 0x06, 0xf4}};
        memcpy(code, stores[round % 3], 3);
        probe_in[SI] = (word)(data + PAGE - 1 - rnd() % 3);
        probe_flags = 0x202;
        probe_code = (word)code;
        probe();
        CHECK(number == SIGSEGV && info.si_code == SEGV_ACCERR, "signal %d, code %d", number, info.si_code);
        CHECK(info.si_addr == data + PAGE, "fault at %p instead of %p", info.si_addr, (void *)(data + PAGE));
        CHECK((error_code & ~1ul) == 6, "error code %#lx", (unsigned long)error_code);
        CHECK(!memcmp(copy, data + PAGE - 64, 64), "a store that faulted was half done");
        // rep stosb runs into the page: as much as fits is done, and the counters say so.
        static const uint8_t rep[] = {0xf3, 0xaa, 0xf4};
        memcpy(code, rep, 3);
        long room = 1 + rnd() % 60;
        start_values();
        probe_in[DI] = (word)(data + PAGE - room);
        probe_in[CX] = 200;
        probe();
        CHECK(seen_ip == (word)code && seen[CX] == 200 - (word)room && seen[DI] == (word)(data + PAGE), "rep stosb: %ld left at %#lx after %ld",
              (long)seen[CX], (unsigned long)seen[DI], room);
        for (long i = 1; i <= room; i++) CHECK(data[PAGE - i] == (uint8_t)probe_in[AX], "byte %ld", i);
    }
}

// Floating-point exceptions, where they are unmasked: SSE ones at their instruction, x87 ones at the next that waits.
static void floats(void) {
    catch_faults();
    uint8_t *code = pages(1, RWX);
    // divsd xmm0, xmm1 with 1/0; then hlt
    static const uint8_t sse[] = {0xf2, 0x0f, 0x5e, 0xc1, 0xf4};
    // fld1; fldz; fdivp; nop; nop; fwait; hlt
    static const uint8_t x87[] = {0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x90, 0x90, 0x9b, 0xf4};
    for (long round = 0; round < rounds(100); round++) {
        unsigned csr = 0x1f80 & ~0x200;
        uint16_t cw = 0x37f & ~4;
        double one = 1, zero = 0;
        start_values();
        probe_flags = 0x202;
        probe_code = (word)code;
        memcpy(code, sse, sizeof sse);
        __asm__ volatile("ldmxcsr %0; movsd %1, %%xmm0; movsd %2, %%xmm1" : : "m"(csr), "m"(one), "m"(zero) : "xmm0", "xmm1");
        probe();
        CHECK(number == SIGFPE && info.si_code == FPE_FLTDIV && trap_number == 19, "SSE: signal %d code %d vector %ld", number, info.si_code,
              (long)trap_number);
        CHECK(seen_ip == (word)code, "SSE: at +%ld", (long)(seen_ip - (word)code));
        csr = 0x1f80;
        __asm__ volatile("ldmxcsr %0" : : "m"(csr));
        memcpy(code, x87, sizeof x87);
        __asm__ volatile("fninit; fldcw %0" : : "m"(cw));
        probe();
        CHECK(number == SIGFPE && info.si_code == FPE_FLTDIV && trap_number == 16, "x87: signal %d code %d vector %ld", number, info.si_code,
              (long)trap_number);
        CHECK(seen_ip == (word)code + 8, "x87: at +%ld", (long)(seen_ip - (word)code));
        __asm__ volatile("fninit");
    }
}

// Alignment checks (EFLAGS.AC), single-step by the trap flag, a bus error behind a file's end, and non-canonical addresses.
static void odd_ones(void) {
    catch_faults();
    uint8_t *code = pages(1, RWX), *data = pages(1, PROT_READ | PROT_WRITE);
    static const uint8_t load[] = {0x8b, 0x06, 0x8b, 0x46, 0x01, 0xf4}; // mov eax, [si]; mov eax, [si+1]
    static const uint8_t nops[] = {0x90, 0x90, 0x31, 0xc0, 0xf4};
    int fd = MUST((int)syscall(SYS_memfd_create, "short", 0));
    uint8_t *file = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (long round = 0; round < rounds(100); round++) {
        start_values();
        memcpy(code, load, sizeof load);
        probe_code = (word)code;
        probe_flags = 0x40202;
        probe_in[SI] = (word)data;
        probe();
        CHECK(number == SIGBUS && info.si_code == BUS_ADRALN && trap_number == 17 && seen_ip == (word)code + 2, "alignment: %d at +%ld", number,
              (long)(seen_ip - (word)code));
        // popf with TF is followed by one instruction, here the first of probe; the handler clears the flag and leaves. So set it
        // in the code: pushf; or byte [sp+1], 1; popf; nop; nop
        uint8_t *p = code + 64;
        static const uint8_t set_tf[] = {0x9c, 0x80, 0x4c, 0x24, 0x01, 0x01, 0x9d};
        memcpy(p, set_tf, sizeof set_tf);
        memcpy(p + sizeof set_tf, nops, sizeof nops);
        probe_flags = 0x202;
        probe_code = (word)p;
        probe();
        CHECK(number == SIGTRAP && info.si_code == TRAP_TRACE && seen_ip == (word)p + sizeof set_tf + 1, "trap flag: %d code %d at +%ld", number,
              info.si_code, (long)(seen_ip - (word)p));
        memcpy(code, load, sizeof load);
        probe_code = (word)code;
        probe_in[SI] = (word)file;
        probe();
        CHECK(number == SIGBUS && info.si_code == BUS_ADRERR && info.si_addr == file, "behind the end: %d", number);
#ifdef __x86_64__
        probe_in[SI] = 0x8000000000000000 | rnd() >> 1;
        probe_in[SI] &= ~(1ull << 62);
        static const uint8_t load64[] = {0x48, 0x8b, 0x06, 0xf4};
        memcpy(code, load64, sizeof load64);
        probe();
        CHECK(number == SIGSEGV && info.si_code == SI_KERNEL && trap_number == 13 && seen_ip == (word)code, "non-canonical: %d", number);
        // A kernel address: protected, not absent, as far as user space can tell.
        probe_in[SI] = 0xffffffff81000000;
        probe();
        CHECK(number == SIGSEGV && trap_number == 14 && (error_code & 4), "kernel address: %d", number);
        // Misaligned movaps.
        static const uint8_t movaps[] = {0x0f, 0x28, 0x46, 0x04, 0xf4};
        memcpy(code, movaps, sizeof movaps);
        probe_in[SI] = (word)data;
        probe();
        CHECK(number == SIGSEGV && trap_number == 13 && seen_ip == (word)code, "movaps: %d", number);
#endif
    }
}

const struct test fault_tests[] = {
    {"fault-registers", registers}, {"fault-halves", halves}, {"fault-floats", floats}, {"fault-odd-ones", odd_ones}, {0, 0},
};
