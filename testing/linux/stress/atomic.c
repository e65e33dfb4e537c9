// Locked operations, futexes and what is built of them.
#include "stress.h"
#include <linux/futex.h>
#include <time.h>

enum { MOST = 8 };
static int crew;
static void *shared;

static int workers(void) {
    int n = cpus() < 2 ? 2 : cpus();
    return n > MOST ? MOST : n;
}

// Counters of every width, moved by every kind of locked operation: no update is lost.
static struct {
    uint8_t byte;
    uint16_t word;
    uint32_t add, xadd, cas, dec;
    uint64_t wide;
    uint32_t bits;
} __attribute__((aligned(64))) counters;

static void counting_body(long who) {
    for (long i = 0; i < rounds(4000); i++) {
        __asm__ volatile("lock incb %0" : "+m"(counters.byte));
        __asm__ volatile("lock addw $1, %0" : "+m"(counters.word));
        __asm__ volatile("lock addl $1, %0" : "+m"(counters.add));
        __asm__ volatile("lock decl %0" : "+m"(counters.dec));
        uint32_t one = 1;
        __asm__ volatile("lock xaddl %0, %1" : "+r"(one), "+m"(counters.xadd));
        for (;;) {
            uint32_t old = __atomic_load_n(&counters.cas, __ATOMIC_RELAXED);
            uint8_t good;
            __asm__ volatile("lock cmpxchgl %3, %1; sete %2" : "+a"(old), "+m"(counters.cas), "=q"(good) : "r"(old + 1));
            if (good) break;
        }
        __atomic_fetch_add(&counters.wide, 0x100000001, __ATOMIC_SEQ_CST);
        // Bit `who` is this thread's alone: whoever flips it sees its own last state.
        uint8_t was;
        __asm__ volatile("lock btcl %2, %1; setc %0" : "=q"(was), "+m"(counters.bits) : "r"((uint32_t)who));
        CHECK(was == (i & 1), "bit %ld was %u in round %ld", who, was, i);
    }
}
static void counting(void) {
    int n = workers();
    threads(n, counting_body);
    uint32_t total = n * rounds(4000);
    CHECK(counters.byte == (uint8_t)total && counters.word == (uint16_t)total, "8 and 16 bits");
    CHECK(counters.add == total && counters.xadd == total && counters.cas == total && counters.dec == -total, "32 bits: %u %u %u of %u",
          counters.add, counters.xadd, counters.cas, total);
    CHECK(counters.wide == total * 0x100000001ull, "64 bits");
}

// Locked additions that lie across two cache lines and two pages.
static void split_body(long who) {
    (void)who;
    for (long i = 0; i < rounds(500); i++) {
        __asm__ volatile("lock addl $1, %0" : "+m"(*(uint32_t *)((uint8_t *)shared + 64 - 2)));
        __asm__ volatile("lock addl $1, %0" : "+m"(*(uint32_t *)((uint8_t *)shared + PAGE - 1)));
        __asm__ volatile("lock incl %0" : "+m"(*(uint32_t *)((uint8_t *)shared + PAGE + 1021)));
    }
}
static void split(void) {
    shared = pages(2, PROT_READ | PROT_WRITE);
    threads(workers(), split_body);
    static const int at[] = {64 - 2, PAGE - 1, PAGE + 1021};
    for (int i = 0; i < 3; i++) {
        uint32_t got;
        memcpy(&got, (uint8_t *)shared + at[i], 4);
        CHECK(got == (uint32_t)(workers() * rounds(500)), "at %d: %u", at[i], got);
    }
}

// Two halves that always belong together, changed by cmpxchg8b or cmpxchg16b.
#ifdef __x86_64__
typedef uint64_t half;
#define CMPXCHG "lock cmpxchg16b"
#else
typedef uint32_t half;
#define CMPXCHG "lock cmpxchg8b"
#endif
static struct {
    half lo, hi;
} __attribute__((aligned(16))) pair;
static void pair_body(long who) {
    (void)who;
    for (long i = 0; i < rounds(3000);) {
        half lo = 0, hi = 0;
        uint8_t good;
        // A failing exchange is an atomic load.
        __asm__ volatile(CMPXCHG " %2" : "+a"(lo), "+d"(hi), "+m"(pair) : "b"((half)0), "c"((half)0) : "cc");
        CHECK(hi == ~lo, "torn: %llx %llx", (unsigned long long)hi, (unsigned long long)lo);
        half next = lo + 3;
        __asm__ volatile(CMPXCHG " %3; sete %2" : "+a"(lo), "+d"(hi), "=q"(good), "+m"(pair) : "b"(next), "c"(~next) : "cc");
        i += good;
    }
}
static void pairs(void) {
    pair.lo = 1;
    pair.hi = ~pair.lo;
    threads(workers(), pair_body);
    CHECK(pair.lo == (half)(1 + 3 * workers() * rounds(3000)), "updates were lost");
}

// A mutex of futexes around a counter, and a condition variable as a barrier.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static long plain, whose;
static void mutex_body(long who) {
    for (long i = 0; i < rounds(2000); i++) {
        pthread_mutex_lock(&mutex);
        plain++;
        pthread_mutex_unlock(&mutex);
    }
    for (long i = 0; i < rounds(100); i++) {
        pthread_mutex_lock(&mutex);
        while (whose % crew != who) pthread_cond_wait(&turn, &mutex);
        whose++;
        pthread_cond_broadcast(&turn);
        pthread_mutex_unlock(&mutex);
    }
}
static void futexes(void) {
    crew = workers();
    threads(crew, mutex_body);
    CHECK(plain == crew * rounds(2000), "%ld of %ld", plain, crew * rounds(2000));
    CHECK(whose == crew * rounds(100), "%ld turns", whose);
}

// Mutexes whose waiting is the kernel's (priority inheritance), and one whose owner dies.
static pthread_mutex_t inheriting, orphan;
static void *dies(void *unused) {
    (void)unused;
    pthread_mutex_lock(&orphan);
    return 0;
}
static void inherit_body(long who) {
    (void)who;
    for (long i = 0; i < rounds(300); i++) {
        pthread_mutex_lock(&inheriting);
        plain++;
        pthread_mutex_unlock(&inheriting);
    }
}
static void futex_kinds(void) {
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
    CHECK(!pthread_mutex_init(&inheriting, &a), "no such mutex");
    threads(workers(), inherit_body);
    CHECK(plain == workers() * rounds(300), "%ld", plain);
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&orphan, &a);
    for (long i = 0; i < rounds(30); i++) {
        pthread_t t;
        CHECK(!pthread_create(&t, 0, dies, 0), "no thread");
        pthread_join(t, 0);
        CHECK(pthread_mutex_lock(&orphan) == EOWNERDEAD, "the owner's death went unnoticed");
        pthread_mutex_consistent(&orphan);
        pthread_mutex_unlock(&orphan);
    }
    // A wait that ends by time, not early.
    for (int i = 0; i < 5; i++) {
        struct timespec t = {0, 3000000};
        uint32_t word = 1;
        double begin = seconds();
        CHECK(syscall(SYS_futex, &word, FUTEX_WAIT, 1, &t, 0, 0) == -1 && errno == ETIMEDOUT, "futex: %s", strerror(errno));
        CHECK(seconds() - begin >= 0.003, "woke after %.6f s", seconds() - begin);
    }
}

const struct test atomic_tests[] = {
    {"atomic-counting", counting}, {"atomic-split", split},         {"atomic-pairs", pairs},
    {"atomic-futexes", futexes},   {"atomic-futex-kinds", futex_kinds}, {0, 0},
};
