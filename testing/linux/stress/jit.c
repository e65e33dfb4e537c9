// Code that appears, moves and goes: aliases of a page, a JIT that keeps to W^X, code mapped at many addresses, files whose
// mapped text is written.
#include "stress.h"

static int shared_file(size_t count) {
    int fd = MUST((int)syscall(SYS_memfd_create, "code", 0));
    MUST(ftruncate(fd, count * PAGE));
    return fd;
}

static uint8_t *view(int fd, int rights, size_t count) {
    void *p = mmap(0, count * PAGE, rights, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
    return p;
}

// Written through one address, executed at another; written by write(2); written by another process.
static void aliases(void) {
    int fd = shared_file(1);
    uint8_t *data = view(fd, PROT_READ | PROT_WRITE, 1), *code = view(fd, PROT_READ | PROT_EXEC, 1), new[6];
    for (long i = 0; i < rounds(3000); i++) {
        uint32_t value = rnd();
        int at = rnd() % 200 * 16;
        if (i % 50 == 49) {
            pid_t pid = MUST(fork());
            if (!pid) {
                put_constant(data + at, value);
                _exit(0);
            }
            reap(pid);
        } else if (i % 2) {
            put_constant(new, value);
            MUST(pwrite(fd, new, 6, at));
        } else {
            put_constant(data + at, value);
        }
        uint32_t got = call_at(code + at);
        CHECK(got == value, "round %ld: %#x instead of %#x", i, got, value);
    }
}

// A private mapping of a file: shows the file's text until it is written itself.
static void mapped_file(void) {
    char path[] = "/tmp/stress-code-XXXXXX";
    int fd = MUST(mkstemp(path));
    unlink(path);
    uint8_t new[6];
    for (long i = 0; i < rounds(300); i++) {
        put_constant(new, i);
        MUST(pwrite(fd, new, 6, 0));
        MUST(ftruncate(fd, PAGE));
        uint8_t *code = mmap(0, PAGE, RWX, MAP_PRIVATE, fd, 0);
        CHECK(code != MAP_FAILED, "mmap");
        CHECK(call_at(code) == (uint32_t)i, "mapped");
        put_constant(new, i + 7);
        MUST(pwrite(fd, new, 6, 0));
        CHECK(call_at(code) == (uint32_t)i + 7, "the file's new text");
        put_constant(code, i + 9);
        CHECK(call_at(code) == (uint32_t)i + 9, "its own");
        put_constant(new, i + 8);
        MUST(pwrite(fd, new, 6, 0));
        CHECK(call_at(code) == (uint32_t)i + 9, "the file's no more");
        munmap(code, PAGE);
    }
}

// A random sequence of additions, rotations and subtractions; eax has the result of `expected`.
static uint32_t expected;
static uint8_t *emit(uint8_t *p, int count) {
    uint32_t v = rnd();
    *p++ = 0xb8;
    memcpy(p, &v, 4);
    p += 4;
    for (int i = 0; i < count; i++) {
        uint32_t imm = rnd();
        switch (rnd() % 4) {
        case 0: *p++ = 0x05; memcpy(p, &imm, 4); p += 4; v += imm; break;
        case 1: *p++ = 0x2d; memcpy(p, &imm, 4); p += 4; v -= imm; break;
        case 2: *p++ = 0x35; memcpy(p, &imm, 4); p += 4; v ^= imm; break;
        default: *p++ = 0xc1; *p++ = 0xc0; imm = imm % 31 + 1; *p++ = imm; v = v << imm | v >> (32 - imm);
        }
        // Now and then a jump over garbage.
        if (rnd() % 5 == 0) {
            int skip = 1 + rnd() % 9;
            *p++ = 0xeb;
            *p++ = skip;
            for (int k = 0; k < skip; k++) *p++ = rnd();
        }
    }
    *p++ = 0xc3;
    expected = v;
    return p;
}

// Writable, then executable, never both; the same page again and again, then mapped anew at the same address.
static void write_xor_execute(void) {
    uint8_t *code = pages(4, PROT_READ | PROT_WRITE);
    for (long i = 0; i < rounds(1500); i++) {
        if (i % 4 == 3) {
            munmap(code, 4 * PAGE);
            uint8_t *again = mmap(code, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            CHECK(again == code, "mmap");
        } else {
            MUST(mprotect(code, 4 * PAGE, PROT_READ | PROT_WRITE));
        }
        uint8_t *at = code + rnd() % (3 * PAGE);
        emit(at, 5 + rnd() % 60);
        MUST(mprotect(code, 4 * PAGE, PROT_READ | PROT_EXEC));
        for (int k = 0; k < 3; k++) {
            uint32_t got = call_at(at);
            CHECK(got == expected, "round %ld: %#x instead of %#x", i, got, expected);
        }
    }
}

// Pages with code change places: mremap must move what is executed there.
static void moved(void) {
    uint8_t *home = pages(8, RWX), *spare = pages(1, PROT_NONE);
    for (int i = 0; i < 8; i++) put_constant(home + i * PAGE, i);
    int at[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (long i = 0; i < rounds(500); i++) {
        int a = rnd() % 8, b = rnd() % 8;
        if (a == b) continue;
        uint8_t *x = home + a * PAGE, *y = home + b * PAGE;
        CHECK(call_at(x) == (uint32_t)at[a] && call_at(y) == (uint32_t)at[b], "before move %ld", i);
        int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
        CHECK(mremap(x, PAGE, PAGE, flags, spare) == spare && mremap(y, PAGE, PAGE, flags, x) == x && mremap(spare, PAGE, PAGE, flags, y) == y, "mremap");
        int t = at[a];
        at[a] = at[b], at[b] = t;
        for (int k = 0; k < 8; k++) CHECK(call_at(home + k * PAGE) == (uint32_t)at[k], "page %d after move %ld", k, i);
    }
}

// One physical page of code at many addresses, each with its own data page behind it: code must find the data and the return
// address of where it runs, not of where it was translated.
static void many_addresses(void) {
    enum { COPIES = 24 };
    int fd = shared_file(1);
    uint8_t *write = view(fd, PROT_READ | PROT_WRITE, 1);
    // call next; next: pop eax/rax: its own address; then eax = [address - 5 + PAGE]
#ifdef __x86_64__
    static const uint8_t code[] = {0xe8, 0, 0, 0, 0, 0x58, 0x8b, 0x80, 0xfb, 0x0f, 0, 0, 0x03, 0x05, 0xf0, 0x0f, 0, 0, 0xc3};
#else
    static const uint8_t code[] = {0xe8, 0, 0, 0, 0, 0x58, 0x8b, 0x88, 0xfb, 0x0f, 0, 0, 0x03, 0x88, 0xff, 0x0f, 0, 0, 0x89, 0xc8, 0xc3};
#endif
    memcpy(write, code, sizeof code);
    uint8_t *at[COPIES];
    for (int i = 0; i < COPIES; i++) {
        at[i] = pages(2, PROT_READ | PROT_WRITE);
        CHECK(mmap(at[i], PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0) == at[i], "mmap");
        ((uint32_t *)(at[i] + PAGE))[0] = 1000 + i;
        // In 64-bit mode the second datum is at rip + 0ff0h from behind the add, at 12h: 1002h; else 4 bytes behind the first.
        uint32_t second = 5 * i;
        memcpy(at[i] + PAGE + (sizeof(void *) == 8 ? 2 : 4), &second, sizeof second);
    }
    for (long i = 0; i < rounds(20000); i++) {
        uint8_t *p = at[rnd() % COPIES];
        uint32_t a, b;
        memcpy(&a, p + PAGE, 4);
        memcpy(&b, p + PAGE + (sizeof(void *) == 8 ? 2 : 4), 4);
        uint32_t got = call_at(p);
        CHECK(got == a + b, "round %ld: %u instead of %u", i, got, a + b);
    }
}

// Code that is gone, or may no longer be executed, faults at its first byte.
static sigjmp_buf back;
static siginfo_t last;
static void caught(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    last = *info;
    siglongjmp(back, 1);
}
static void taken_away(void) {
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, 0);
    uint8_t *code = pages(1, RWX);
    for (long i = 0; i < rounds(300); i++) {
        put_constant(code, i);
        CHECK(call_at(code) == (uint32_t)i, "before");
        volatile int how = i % 3;
        if (how == 0) munmap(code, PAGE);
        if (how == 1) MUST(mprotect(code, PAGE, PROT_READ | PROT_WRITE));
        if (how == 2) MUST(mprotect(code, PAGE, PROT_NONE));
        if (!sigsetjmp(back, 1)) {
            call_at(code);
            fail("code that was taken away (%d) ran", how);
        }
        CHECK(last.si_addr == code, "si_addr %p instead of %p", last.si_addr, (void *)code);
        CHECK(last.si_code == (how == 0 ? SEGV_MAPERR : SEGV_ACCERR), "si_code %d", last.si_code);
        if (how == 0) {
            CHECK(mmap(code, PAGE, RWX, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == code, "mmap");
        } else {
            MUST(mprotect(code, PAGE, RWX));
            CHECK(call_at(code) == (uint32_t)i, "given back");
        }
    }
}

const struct test jit_tests[] = {
    {"jit-aliases", aliases}, {"jit-mapped-file", mapped_file},       {"jit-write-xor-execute", write_xor_execute},
    {"jit-moved", moved},     {"jit-many-addresses", many_addresses}, {"jit-taken-away", taken_away},
    {0, 0},
};
