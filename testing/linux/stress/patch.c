// Cross-modifying code (SDM 3A §9.1.3): one processor executes what another changes.
#include "stress.h"

static uint8_t *code;
static _Atomic uint32_t published, taken;
static _Atomic int done;

// The writer stores, publishes, waits; the reader serialises and calls: it must get exactly what was published.
// The other may have no CPU of its own.
static void wait_a_little(long spins) {
    if (spins < 1000) relax();
    else sched_yield();
}
static void announced_body(long who) {
    for (uint32_t i = 1; i <= rounds(2000); i++) {
        uint8_t *at = code + i % 100 * 32;
        if (who == 0) {
            put_constant(at, i * 7);
            published = i;
            for (long spins = 0; taken != i; spins++) wait_a_little(spins);
        } else {
            for (long spins = 0; published != i; spins++) wait_a_little(spins);
            serialize();
            uint32_t got = call_at(at);
            CHECK(got == i * 7, "round %u: %u instead of %u", i, got, i * 7);
            taken = i;
        }
    }
}
static void announced(void) {
    code = pages(1, RWX);
    threads(2, announced_body);
}

// The writer counts up an aligned immediate while others run it, without any agreement: they see numbers that never fall, and in
// the end the last one.
static void racing_body(long who) {
    uint8_t *at = code + 3;
    if (who == 0) {
        for (uint32_t i = 1; i <= rounds(30000); i++) {
            __atomic_store_n((uint32_t *)(at + 1), i, __ATOMIC_SEQ_CST);
            if (i % 64 == 0) sched_yield();
        }
        done = 1;
        return;
    }
    uint32_t before = 0, last = rounds(30000);
    long calls = 0;
    while (!done) {
        uint32_t got = call_at(at);
        CHECK(got >= before && got <= last, "%u after %u", got, before);
        before = got;
        calls++;
    }
    serialize();
    CHECK(call_at(at) == last, "%u in the end instead of %u", call_at(at), last);
    if (who == 1) note("%ld calls", calls);
}
static void racing(void) {
    code = pages(1, RWX);
    put_constant(code + 3, 0);
    threads(cpus() > 3 ? 3 : 2, racing_body);
}

// As kernels patch their text (Linux text_poke_bp): INT3 over the first byte, all others serialise, the rest of the
// instruction, all serialise, the first byte. Whoever meets the INT3 gets a SIGTRAP and tries again.
static _Atomic long traps;
static void trapped(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    ucontext_t *c = context;
#ifdef __x86_64__
    c->uc_mcontext.gregs[REG_RIP]--;
#else
    c->uc_mcontext.gregs[REG_EIP]--;
#endif
    traps++;
}
enum { SYNC = 1 << 5, REGISTER = 1 << 6 };
static void poked_body(long who) {
    if (who == 0) {
        for (uint32_t i = 1; i <= rounds(300); i++) {
            uint8_t new[6];
            // All bytes of the number are the same, so that a mixture shows.
            put_constant(new, i % 250 * 0x01010101u);
            __atomic_store_n(code, 0xcc, __ATOMIC_SEQ_CST);
            MUST(syscall(SYS_membarrier, SYNC, 0, 0));
            for (int k = 1; k < 6; k++) __atomic_store_n(code + k, new[k], __ATOMIC_SEQ_CST);
            MUST(syscall(SYS_membarrier, SYNC, 0, 0));
            __atomic_store_n(code, new[0], __ATOMIC_SEQ_CST);
            MUST(syscall(SYS_membarrier, SYNC, 0, 0));
        }
        done = 1;
        return;
    }
    while (!done) {
        uint32_t got = call_at(code);
        CHECK(got == (got & 0xff) * 0x01010101u, "a mixture: %#x", got);
    }
}
static void poked(void) {
    if (syscall(SYS_membarrier, REGISTER, 0, 0)) skip("no membarrier for code: %s", strerror(errno));
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, 0);
    code = pages(1, RWX);
    put_constant(code, 0);
    threads(cpus() > 3 ? 3 : 2, poked_body);
    note("%ld traps", (long)traps);
}

// A call is redirected between two functions while others run it (as static calls are): each call reaches one of them.
static void redirected_body(long who) {
    uint8_t *site = code + 64 + 3;
    if (who == 0) {
        for (long i = 0; i < rounds(20000); i++) {
            uint8_t *target = code + (i & 1 ? 1024 : 2048);
            __atomic_store_n((int32_t *)(site + 1), (int32_t)(target - (site + 5)), __ATOMIC_SEQ_CST);
            if (i % 64 == 0) sched_yield();
        }
        done = 1;
        return;
    }
    long count[2] = {0, 0};
    while (!done) {
        uint32_t got = call_at(code + 64);
        CHECK(got == 11 || got == 22, "%u", got);
        count[got == 22]++;
    }
    if (who == 1) note("%ld and %ld calls", count[0], count[1]);
}
static void redirected(void) {
    code = pages(1, RWX);
    put_constant(code + 1024, 11);
    put_constant(code + 2048, 22);
    // Three nops so that the displacement is aligned: nop; nop; nop; call +n; ret
    static const uint8_t site[] = {0x90, 0x90, 0x90, 0xe8, 0, 0, 0, 0, 0xc3};
    memcpy(code + 64, site, sizeof site);
    int32_t to = 1024 - (64 + 8);
    memcpy(code + 64 + 4, &to, 4);
    threads(cpus() > 3 ? 3 : 2, redirected_body);
}

// Every thread writes its own function and runs everybody's; what it runs must be something that was written whole. The
// functions share pages, so that invalidation hits code in use.
enum { OWNERS = 4 };
static void crowd_body(long who) {
    uint8_t *mine = code + who * 16;
    for (uint32_t i = 1; i <= rounds(5000); i++) {
        uint32_t value = who << 24 | i;
        __atomic_store_n((uint32_t *)(mine + 4), value, __ATOMIC_SEQ_CST);
        uint32_t got = call_at(mine + 3);
        CHECK(got == value, "own: %#x instead of %#x", got, value);
        int other = rnd() % OWNERS;
        got = call_at(code + other * 16 + 3);
        CHECK(got >> 24 == (uint32_t)other, "that of %d: %#x", other, got);
    }
}
static void crowd(void) {
    code = pages(1, RWX);
    for (int i = 0; i < OWNERS; i++) put_constant(code + i * 16 + 3, i << 24);
    threads(OWNERS, crowd_body);
}

const struct test patch_tests[] = {
    {"patch-announced", announced}, {"patch-racing", racing}, {"patch-poked", poked},
    {"patch-redirected", redirected}, {"patch-crowd", crowd}, {0, 0},
};
