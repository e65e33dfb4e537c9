// Signals that come at any moment: what they interrupt must not notice.
#include "stress.h"
#include <sys/time.h>

static _Atomic long arrived;

// The handler uses what the interrupted code uses: vector and x87 registers, flags, string direction.
static void meddle(int number) {
    (void)number;
    arrived++;
    double x = arrived * 1.5;
    long double y = x / 3.0L;
    __asm__ volatile("movaps %%xmm1, %%xmm0; pxor %%xmm7, %%xmm7; std; cld; cmp $5, %%eax" : : : "xmm0", "xmm7", "cc");
    *(volatile double *)&x = y + x;
}

// A computation with integers, flags, SSE and x87 at once; the same input gives the same result.
static uint64_t compute(long n) {
    uint64_t a = 88172645463325252u, carry = 0;
    double d = 1;
    long double l = 1;
    for (long i = 0; i < n; i++) {
        a ^= a << 13;
        a ^= a >> 7;
        a ^= a << 17;
        unsigned lo = a, hi = a >> 32;
        // A carry that lives through other instructions.
        __asm__ volatile("add %2, %0\n\tlea 1(%1), %1\n\tmov %0, %0\n\tadc $0, %1" : "+r"(lo), "+r"(hi) : "r"((unsigned)i) : "cc");
        carry += hi ^ lo;
        d = d * 1.0000001 + (double)(lo & 0xff);
        if (d > 1e12) d = 1;
        l = l * 1.000001L + (long double)(hi & 0xf);
        if (l > 1e12L) l = 1;
    }
    uint64_t bits;
    memcpy(&bits, &d, 8);
    return a ^ carry ^ bits ^ (uint64_t)(l * 1000);
}

static void interrupted(void) {
    long n = rounds(60000);
    uint64_t expected = compute(n);
    struct sigaction action = {.sa_handler = meddle, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    struct itimerval every = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &every, 0);
    for (int i = 0; i < 10; i++) {
        uint64_t got = compute(n);
        CHECK(got == expected, "run %d: %llx instead of %llx", i, (unsigned long long)got, (unsigned long long)expected);
    }
    memset(&every, 0, sizeof every);
    setitimer(ITIMER_REAL, &every, 0);
    note("%ld signals", (long)arrived);
}

// Threads shoot signals at each other while they compute.
static pthread_t crew[8];
static _Atomic int ready;
static int size;
static uint64_t wanted;
static void shooter(long who) {
    crew[who] = pthread_self();
    ready++;
    while (ready < size) sched_yield();
    for (long i = 0; i < rounds(60); i++) {
        pthread_kill(crew[(who + 1 + rnd() % (size - 1)) % size], SIGUSR1);
        uint64_t got = compute(1000);
        CHECK(got == wanted, "thread %ld, round %ld", who, i);
    }
    // Nobody ends before all shots are fired.
    ready++;
    while (ready < 2 * size) sched_yield();
}
static void crossfire(void) {
    struct sigaction action = {.sa_handler = meddle, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, 0);
    size = cpus() < 2 ? 2 : cpus() > 8 ? 8 : cpus();
    wanted = compute(1000);
    threads(size, shooter);
    CHECK(arrived > 0, "no signal came");
    note("%ld signals", (long)arrived);
}

// A handler changes the vector and x87 registers in its frame: the interrupted code finds them changed (XSAVE image).
static void in_frame(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    ucontext_t *c = context;
#ifdef __x86_64__
    CHECK(c->uc_mcontext.fpregs, "no FPU frame");
    uint32_t *xmm3 = c->uc_mcontext.fpregs->_xmm[3].element;
#else
    // Behind the 112 bytes of the old frame comes an FXSAVE image, with xmm0 at 160.
    CHECK(c->uc_mcontext.fpregs, "no FPU frame");
    uint32_t *xmm3 = (uint32_t *)((uint8_t *)c->uc_mcontext.fpregs + 112 + 160 + 3 * 16);
#endif
    for (int i = 0; i < 4; i++) xmm3[i] = ~xmm3[i];
}
static void frames(void) {
    struct sigaction action = {.sa_sigaction = in_frame, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR2, &action, 0);
    long pid = getpid(), nr = SYS_kill;
    for (long i = 0; i < rounds(1000); i++) {
        uint32_t in[4] = {rnd(), rnd(), rnd(), rnd()}, out[4];
        long result = nr;
#ifdef __x86_64__
        __asm__ volatile("movups %1, %%xmm3; syscall; movups %%xmm3, %2" : "+a"(result), "+m"(in), "=m"(out) : "D"(pid), "S"((long)SIGUSR2) : "rcx", "r11", "xmm3", "memory");
#else
        __asm__ volatile("movups %1, %%xmm3; int $0x80; movups %%xmm3, %2" : "+a"(result), "+m"(in), "=m"(out) : "b"(pid), "c"((long)SIGUSR2) : "xmm3", "memory");
#endif
        CHECK(result == 0, "kill: %ld", result);
        for (int k = 0; k < 4; k++) CHECK(out[k] == ~in[k], "round %ld: %#x instead of %#x", i, out[k], ~in[k]);
    }
}

// Handlers that leave by siglongjmp, many levels deep, from a fault.
static sigjmp_buf levels[8];
static volatile int level;
static void leaps(int number) {
    (void)number;
    siglongjmp(levels[level], 1);
}
static volatile int *nowhere;
static void dive(volatile int depth) {
    if (depth == 8) return;
    level = depth;
    if (!sigsetjmp(levels[depth], 1)) {
        *nowhere = 1;
        fail("a store to nowhere succeeded");
    }
    dive(depth + 1);
}
static void leaping(void) {
    struct sigaction action = {.sa_handler = leaps};
    sigaction(SIGSEGV, &action, 0);
    nowhere = pages(1, PROT_NONE);
    for (long i = 0; i < rounds(300); i++) dive(0);
}

const struct test signal_tests[] = {
    {"signal-interrupted", interrupted}, {"signal-crossfire", crossfire}, {"signal-frames", frames}, {"signal-leaping", leaping}, {0, 0},
};
