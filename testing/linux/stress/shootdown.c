// Address translation that changes while others use it: what mprotect, munmap, mremap and madvise promise when they return holds
// on every CPU.
#include "stress.h"

enum { MOST = 8 };
static volatile uint32_t *page;
static _Atomic uint32_t epoch, stop;

static int crew(void) {
    int n = cpus() < 2 ? 2 : cpus();
    return n > MOST ? MOST : n;
}

// While a page is read-only no store arrives, whoever tries. The storers' faults are answered by trying again.
static void try_again(int number) {
    (void)number;
    sched_yield();
}
static void protect_body(long who) {
    if (who) {
        while (!stop) page[who * 16]++;
        return;
    }
    for (long i = 0; i < rounds(150); i++) {
        uint32_t before[MOST];
        MUST(mprotect((void *)page, PAGE, PROT_READ));
        for (int k = 1; k < crew(); k++) before[k] = page[k * 16];
        for (int spin = 0; spin < 300; spin++) relax();
        if (i % 8 == 0) sched_yield();
        for (int k = 1; k < crew(); k++) CHECK(page[k * 16] == before[k], "a store went through to a read-only page in round %ld", i);
        MUST(mprotect((void *)page, PAGE, PROT_READ | PROT_WRITE));
        sched_yield();
    }
    stop = 1;
}
static void protect(void) {
    struct sigaction action = {.sa_handler = try_again, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &action, 0);
    page = pages(1, PROT_READ | PROT_WRITE);
    threads(crew(), protect_body);
    uint32_t stores = 0;
    for (int k = 1; k < crew(); k++) stores += page[k * 16];
    note("%u stores", stores);
}

// Pages are exchanged at one address (mremap over it); whoever knows the new epoch never sees an older page.
static void exchange_body(long who) {
    if (who) {
        long reads = 0;
        while (!stop) {
            uint32_t known = epoch;
            uint32_t got = page[who];
            CHECK((int32_t)(got - known) >= 0, "page %u after epoch %u", got, known);
            reads++;
        }
        if (who == 1) note("%ld reads", reads);
        return;
    }
    for (uint32_t i = 1; i <= rounds(400); i++) {
        uint32_t *fresh = pages(1, PROT_READ | PROT_WRITE);
        for (int k = 0; k < MOST; k++) fresh[k] = i;
        CHECK(mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)page) == (void *)page, "mremap");
        epoch = i;
        if (i % 16 == 0) sched_yield();
    }
    stop = 1;
}
static void exchange(void) {
    page = pages(1, PROT_READ | PROT_WRITE);
    threads(crew(), exchange_body);
}

// As above, for code: functions are exchanged at one address.
static void exchange_code_body(long who) {
    if (who) {
        while (!stop) {
            uint32_t known = epoch;
            uint32_t got = call_at((const void *)page);
            CHECK((int32_t)(got - known) >= 0, "function %u after epoch %u", got, known);
        }
        return;
    }
    for (uint32_t i = 1; i <= rounds(300); i++) {
        uint8_t *fresh = pages(1, RWX);
        put_constant(fresh, i);
        CHECK(mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)page) == (void *)page, "mremap");
        epoch = i;
        if (i % 16 == 0) sched_yield();
    }
    stop = 1;
}
static void exchange_code(void) {
    page = pages(1, RWX);
    put_constant((uint8_t *)page, 0);
    threads(crew(), exchange_code_body);
}

// MADV_DONTNEED gives the pages back: they read as zero, to everybody, until written again.
static volatile uint32_t *field;
enum { FIELD = 32 };
static void forget_body(long who) {
    if (who) {
        while (!stop) {
            uint32_t known = epoch;
            for (int i = 0; i < FIELD; i++) {
                uint32_t got = field[i * PAGE / 4 + 1];
                CHECK(got == 0 || (int32_t)(got - known) >= 0, "page %d holds %u after epoch %u", i, got, known);
            }
        }
        return;
    }
    for (uint32_t i = 1; i <= rounds(150); i++) {
        MUST(madvise((void *)(uintptr_t)field, FIELD * PAGE, MADV_DONTNEED));
        for (int k = 0; k < FIELD; k++) CHECK(field[k * PAGE / 4 + 1] == 0, "page %d was not forgotten", k);
        epoch = i;
        for (int k = 0; k < FIELD; k += 2) field[k * PAGE / 4 + 1] = i;
    }
    stop = 1;
}
static void forget(void) {
    field = pages(FIELD, PROT_READ | PROT_WRITE);
    MUST(madvise((void *)(uintptr_t)field, FIELD * PAGE, MADV_NOHUGEPAGE));
    threads(crew(), forget_body);
}

// Threads store while their process forks: the child's memory is a snapshot, in which nothing changes, and the parent's stores
// are all kept.
static uint32_t *counters[MOST];
static void copy_body(long who) {
    if (who) {
        uint32_t n = 0;
        while (!stop) {
            n++;
            *(volatile uint32_t *)counters[who] = n;
            CHECK(*(volatile uint32_t *)counters[who] == n, "a store was lost");
        }
        return;
    }
    for (long i = 0; i < rounds(25); i++) {
        pid_t pid = MUST(fork());
        if (!pid) {
            uint32_t before[MOST];
            for (int k = 1; k < crew(); k++) before[k] = *(volatile uint32_t *)counters[k];
            for (int spin = 0; spin < 2000; spin++) relax();
            for (int k = 1; k < crew(); k++) CHECK(*(volatile uint32_t *)counters[k] == before[k], "the parent's store is seen in the child");
            _exit(0);
        }
        reap(pid);
    }
    stop = 1;
}
static void copy_on_write(void) {
    for (int k = 0; k < MOST; k++) counters[k] = pages(1, PROT_READ | PROT_WRITE);
    threads(crew(), copy_body);
}

// Many processes with different data at the same addresses take turns on one CPU.
static void same_address(void) {
    uint32_t *at = pages(64, PROT_READ | PROT_WRITE);
    pid_t all[6];
    for (int n = 0; n < 6; n++) {
        all[n] = MUST(fork());
        if (all[n]) continue;
        pin(n % 2);
        for (int k = 0; k < 64; k++) at[k * PAGE / 4] = n << 16 | k;
        for (long i = 0; i < rounds(200); i++) {
            for (int k = 0; k < 64; k++) CHECK(at[k * PAGE / 4] == (uint32_t)(n << 16 | k), "process %d, page %d: %#x", n, k, at[k * PAGE / 4]);
            sched_yield();
        }
        _exit(0);
    }
    for (int n = 0; n < 6; n++) reap(all[n]);
}

// Threads map, write, read and unmap regions of many sizes on their own, huge pages among them.
static void churn_body(long who) {
    uint64_t lot = who + 1;
    for (long i = 0; i < rounds(150); i++) {
        lot = lot * 6364136223846793005u + 1442695040888963407u;
        size_t size = (1 + lot % 60) * PAGE * (lot >> 40 & 15 ? 1 : 20);
        uint8_t *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p != MAP_FAILED, "mmap");
        for (size_t k = 0; k < size; k += PAGE) {
            CHECK(p[k] == 0, "a fresh page is not empty");
            p[k] = lot + k / PAGE;
        }
        if (lot & 1) MUST(mprotect(p, size / 2 & -PAGE, PROT_READ));
        for (size_t k = 0; k < size; k += PAGE) CHECK(p[k] == (uint8_t)(lot + k / PAGE), "page %zu", k / PAGE);
        munmap(p, size);
    }
}
static void churn(void) { threads(crew(), churn_body); }

const struct test shootdown_tests[] = {
    {"shootdown-protect", protect},           {"shootdown-exchange", exchange},
    {"shootdown-exchange-code", exchange_code}, {"shootdown-forget", forget},
    {"shootdown-copy-on-write", copy_on_write}, {"shootdown-same-address", same_address},
    {"shootdown-churn", churn},               {0, 0},
};
