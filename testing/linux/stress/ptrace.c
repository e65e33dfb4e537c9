// Debuggers: single-step, breakpoints in text and in debug registers.
#include "stress.h"
#include <sys/ptrace.h>
#include <sys/user.h>

#ifdef __x86_64__
#define IP(r) (r).rip
#define AX(r) (r).rax
#else
#define IP(r) (r).eip
#define AX(r) (r).eax
#endif
typedef struct user_regs_struct regs_t;

// The traced program stops by itself at the first INT3 and ends behind the second.
static void traced(void *code) {
    MUST(ptrace(PTRACE_TRACEME, 0, 0, 0));
    raise(SIGSTOP);
    ((void (*)(void))(uintptr_t)code)();
}

static regs_t registers(pid_t pid) {
    regs_t r;
    MUST(ptrace(PTRACE_GETREGS, pid, 0, &r));
    return r;
}

static int await(pid_t pid) {
    int status;
    MUST(waitpid(pid, &status, __WALL));
    CHECK(WIFSTOPPED(status), "the child ended with wait status %#x", status);
    return WSTOPSIG(status);
}

static pid_t begin(const uint8_t *code) {
    pid_t pid = child(traced, (void *)(uintptr_t)code);
    CHECK(await(pid) == SIGSTOP, "no SIGSTOP");
    return pid;
}

static void to_int3(pid_t pid) {
    MUST(ptrace(PTRACE_CONT, pid, 0, 0));
    int s = await(pid);
    CHECK(s == SIGTRAP, "signal %d instead of SIGTRAP", s);
}

static void finish(pid_t pid) {
    MUST(ptrace(PTRACE_KILL, pid, 0, 0));
    kill(pid, SIGKILL);
    int status;
    waitpid(pid, &status, __WALL);
}

// Every instruction is one step, at the address at which it must be. A REP string instruction steps once for each round.
static void single_step(void) {
    // 0: int3; 1: mov ecx, 5; 6: dec ecx (ff c9); 8: jnz 6; 10: pushf (9c); 11: popf (9d); 12: call 20; 17: jmp 23; 19: nop
    // 20: nop; 21: nop; 22: ret; 23: mov ecx, 4; 28: cld; 29: lea edi/rdi, [sp-256]; 37: rep stosb; 39: int3
    static const uint8_t code64[] = {0xcc, 0xb9, 5,    0,    0,    0, 0xff, 0xc9, 0x75, 0xfc, 0x9c, 0x9d, 0xe8, 3,    0,    0,    0,    0xeb, 4,    0x90,
                                     0x90, 0x90, 0xc3, 0xb9, 4,    0, 0,    0,    0xfc, 0x8d, 0xbc, 0x24, 0,    0xff, 0xff, 0xff, 0x90, 0xf3, 0xaa, 0xcc};
    uint8_t *code = pages(1, RWX);
    memcpy(code, code64, sizeof code64);
    // lea with REX.W in 64-bit mode: the byte before is the place of CLD.
    if (sizeof(void *) == 8) code[28] = 0x48;
    static int at[256];
    int n = 0;
    at[n++] = 1;
    for (int i = 0; i < 5; i++) at[n++] = 6, at[n++] = 8;
    static const int rest[] = {10, 11, 12, 20, 21, 22, 17, 23};
    for (unsigned i = 0; i < sizeof rest / sizeof *rest; i++) at[n++] = rest[i];
    at[n++] = 28;
    if (sizeof(void *) == 4) at[n++] = 29;
    at[n++] = 36;
    for (int i = 0; i < 4; i++) at[n++] = 37;
    at[n++] = 39;
    for (long round = 0; round < rounds(10); round++) {
        pid_t pid = begin(code);
        to_int3(pid);
        for (int i = 0; i < n; i++) {
            regs_t r = registers(pid);
            long where = IP(r) - (uintptr_t)code;
            CHECK(where == at[i], "step %d is at +%ld instead of +%d", i, where, at[i]);
            MUST(ptrace(PTRACE_SINGLESTEP, pid, 0, 0));
            CHECK(await(pid) == SIGTRAP, "no SIGTRAP at step %d", i);
        }
        finish(pid);
    }
}

// A debugger steps over system calls and a longer computation: the count of steps is the count of instructions.
static void count_steps(void) {
    // int3; mov ecx, 50; again: mov eax, 39/20 (getpid); syscall/int 80h; dec edx; jnz 0; ...
    uint8_t *code = pages(1, RWX), *p = code;
    *p++ = 0xcc;
    *p++ = 0xbb, *p++ = 50, *p++ = 0, *p++ = 0, *p++ = 0; // mov ebx, 50
    uint8_t *again = p;
    *p++ = 0xb8, *p++ = sizeof(void *) == 8 ? 39 : 20, *p++ = 0, *p++ = 0, *p++ = 0;
    if (sizeof(void *) == 8) *p++ = 0x0f, *p++ = 0x05;
    else *p++ = 0xcd, *p++ = 0x80;
    *p++ = 0x89, *p++ = 0xc6; // mov esi, eax
    *p++ = 0xff, *p++ = 0xcb; // dec ebx
    *p++ = 0x75, *p = again - (p + 1), p++;
    *p = 0xcc;
    pid_t pid = begin(code);
    to_int3(pid);
    long steps = 0;
    while (IP(registers(pid)) != (uintptr_t)p) {
        MUST(ptrace(PTRACE_SINGLESTEP, pid, 0, 0));
        CHECK(await(pid) == SIGTRAP, "no SIGTRAP");
        CHECK(++steps < 1000, "the program does not end");
    }
    regs_t r = registers(pid);
#ifdef __x86_64__
    CHECK((pid_t)r.rsi == pid, "getpid gave %lld", r.rsi);
#else
    CHECK((pid_t)r.esi == pid, "getpid gave %ld", r.esi);
#endif
    // The loop ends with ebx zero after 50 rounds of five instructions, and one before.
    CHECK(steps == 1 + 50 * 5, "%ld steps instead of 251", steps);
    finish(pid);
}

// Breakpoints as a debugger sets them: INT3 over the text of another process, then back.
static void breakpoints(void) {
    uint8_t *code = pages(1, RWX), *p = code;
    *p++ = 0xcc;
    *p++ = 0xb8, *p++ = 0, *p++ = 0, *p++ = 0, *p++ = 0; // mov eax, 0
    uint8_t *loop = p;
    *p++ = 0x83, *p++ = 0xc0, *p++ = 1; // add eax, 1
    *p++ = 0x90;
    *p++ = 0xeb, *p = loop - (p + 1), p++;
    pid_t pid = begin(code);
    to_int3(pid);
    uint8_t *at = loop + 3;
    long original = MUST(ptrace(PTRACE_PEEKTEXT, pid, at, 0));
    for (uint32_t i = 1; i <= rounds(150); i++) {
        MUST(ptrace(PTRACE_POKETEXT, pid, at, (original & ~0xffl) | 0xcc));
        to_int3(pid);
        regs_t r = registers(pid);
        CHECK(IP(r) == (uintptr_t)at + 1, "stopped at %#lx", (unsigned long)IP(r));
        CHECK((uint32_t)AX(r) == i, "%lu rounds instead of %u", (unsigned long)AX(r), i);
        IP(r) = (uintptr_t)at;
        MUST(ptrace(PTRACE_SETREGS, pid, 0, &r));
        MUST(ptrace(PTRACE_POKETEXT, pid, at, original));
        MUST(ptrace(PTRACE_SINGLESTEP, pid, 0, 0));
        CHECK(await(pid) == SIGTRAP, "no SIGTRAP");
    }
    finish(pid);
}

static void set_debug(pid_t pid, int number, uintptr_t value) {
    MUST(ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg) + number * sizeof(long), value));
}
static uintptr_t get_debug(pid_t pid, int number) {
    errno = 0;
    uintptr_t v = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg) + number * sizeof(long), 0);
    CHECK(!errno, "debug register %d: %s", number, strerror(errno));
    return v;
}
// DR7: enabled for the task, kind (0: execution, 1: write, 3: read or write), length.
static uintptr_t dr7(int number, int kind, int bytes) {
    int len = bytes == 1 ? 0 : bytes == 2 ? 1 : bytes == 8 ? 2 : 3;
    return 1u << (2 * number) | (uintptr_t)(kind | len << 2) << (16 + 4 * number);
}

// Hardware breakpoints: an execution is reported before, an access after its instruction; near misses are not.
static volatile uint32_t *watched;
static void watchpoints(void) {
    uint8_t *code = pages(1, RWX), *p = code;
    watched = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *p++ = 0xcc;
    uint8_t *loop = p;
#ifdef __x86_64__
    *p++ = 0x48, *p++ = 0xbf; // mov rdi, watched
#else
    *p++ = 0xbf;
#endif
    uintptr_t to = (uintptr_t)watched;
    memcpy(p, &to, sizeof to), p += sizeof to;
    static const uint8_t body[] = {
        0xff, 0x47, 0x0c,       // inc dword [di+12]: no hit
        0xff, 0x47, 0x08,       // inc dword [di+8]: hit if written
        0x8b, 0x47, 0x10,       // mov eax, [di+16]: hit if read
        0x66, 0x89, 0x47, 0x07, // mov [di+7], ax: overlaps
        0x90,                   // execution
        0x90,
    };
    uint8_t *start = p;
    memcpy(p, body, sizeof body), p += sizeof body;
    *p++ = 0xeb, *p = loop - (p + 1), p++;
    pid_t pid = begin(code);
    to_int3(pid);
    set_debug(pid, 0, to + 8);
    set_debug(pid, 1, to + 16);
    set_debug(pid, 2, (uintptr_t)start + 13);
    set_debug(pid, 7, dr7(0, 1, 4) | dr7(1, 3, 4) | dr7(2, 0, 1));
    for (long i = 0; i < rounds(40); i++) {
        // In this order: where execution stands, which register hit.
        static const struct { int at; unsigned hit; } events[] = {{6, 1}, {9, 2}, {13, 5}};
        for (int e = 0; e < 3; e++) {
            to_int3(pid);
            long where = IP(registers(pid)) - (uintptr_t)start;
            unsigned hit = get_debug(pid, 6) & 0xf;
            // The overlapping store traps at +13, where the execution breakpoint is: one stop or two.
            if (events[e].at == 13 && where == 13 && hit == 1) {
                to_int3(pid);
                where = IP(registers(pid)) - (uintptr_t)start;
                hit = (get_debug(pid, 6) & 0xf) | 1;
            }
            CHECK(where == events[e].at, "round %ld, event %d: at +%ld, DR6 %#x", i, e, where, hit);
            CHECK((hit & events[e].hit) == events[e].hit, "round %ld, event %d: DR6 %#x", i, e, hit);
            set_debug(pid, 6, 0);
        }
    }
    // Without breakpoints it runs on.
    set_debug(pid, 7, 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0));
    usleep(2000);
    int status;
    CHECK(waitpid(pid, &status, WNOHANG) == 0, "stopped without breakpoint: %#x", status);
    finish(pid);
}

// System-call stops: entry and exit alternate, and a tracer can change the result.
static void asks(void *unused) {
    (void)unused;
    MUST(ptrace(PTRACE_TRACEME, 0, 0, 0));
    raise(SIGSTOP);
    for (long i = 0; i < rounds(100); i++) CHECK(syscall(SYS_getppid) == 4242, "the tracer's answer did not arrive");
}
static void system_calls(void) {
    pid_t pid = child(asks, 0);
    CHECK(await(pid) == SIGSTOP, "no SIGSTOP");
    MUST(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
    bool entry = true;
    for (;;) {
        int status;
        MUST(ptrace(PTRACE_SYSCALL, pid, 0, 0));
        MUST(waitpid(pid, &status, 0));
        if (WIFEXITED(status)) {
            CHECK(status == 0, "wait status %#x", status);
            return;
        }
        CHECK(WSTOPSIG(status) == (SIGTRAP | 0x80), "signal %d", WSTOPSIG(status));
        regs_t r = registers(pid);
#ifdef __x86_64__
        long nr = r.orig_rax;
#else
        long nr = r.orig_eax;
#endif
        if (nr == SYS_getppid && !entry) {
            AX(r) = 4242;
            MUST(ptrace(PTRACE_SETREGS, pid, 0, &r));
        }
        entry = !entry;
    }
}

const struct test ptrace_tests[] = {
    {"ptrace-single-step", single_step}, {"ptrace-count-steps", count_steps}, {"ptrace-breakpoints", breakpoints},
    {"ptrace-watchpoints", watchpoints}, {"ptrace-system-calls", system_calls}, {0, 0},
};
