// Self-modifying code: a processor executes what was stored, whoever stored it, by whatever instruction, through whatever
// address (SDM 3A §9.1.3: on the same processor after at most a jump; processors in fact see it at once).
#include "stress.h"
#include <sys/uio.h>

// A constant is patched and fetched again.
static void same_page(void) {
    uint8_t *code = pages(1, RWX);
    for (long i = 0; i < rounds(20000); i++) {
        put_constant(code + i * 8 % PAGE, i);
        uint32_t got = call_at(code + i * 8 % PAGE);
        CHECK(got == (uint32_t)i, "%u instead of %ld", got, i);
    }
}

// Straight-line code that patches the very next instruction, one further down, and a loop that patches its own body.
static void ahead(void) {
    uint8_t *code = pages(1, RWX);
    // mov rdx/edx, imm32 patched below: here as absolute address through a register: mov [ecx], al; mov eax, 0; ret
    static const uint8_t next[] = {0x88, 0x01, 0xb8, 0, 0, 0, 0, 0xc3};
    // The same with nops between.
    static const uint8_t later[] = {0x88, 0x01, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xb8, 0, 0, 0, 0, 0xc3};
    memcpy(code, next, sizeof next);
    memcpy(code + 64, later, sizeof later);
    for (long i = 0; i < rounds(5000); i++) {
        uint8_t value = rnd();
        uint32_t got;
        __asm__ volatile("call *%[f]" : "=a"(got) : "0"((uint32_t)value), "c"(code + 3), [f] "r"(code) : "memory", "cc");
        CHECK(got == value, "next: %u instead of %u", got, value);
        __asm__ volatile("call *%[f]" : "=a"(got) : "0"((uint32_t)value), "c"(code + 73), [f] "r"(code + 64) : "memory", "cc");
        CHECK(got == value, "later: %u instead of %u", got, value);
    }
    // mov edx, n; xor eax, eax; again: add eax, imm8 (patched: inc byte [ecx]); inc byte [ecx]; dec edx; jnz again; ret
    static const uint8_t loop[] = {0x31, 0xc0, 0x83, 0xc0, 0x00, 0xfe, 0x01, 0xff, 0xca, 0x75, 0xf7, 0xc3};
    memcpy(code + 128, loop, sizeof loop);
    for (long i = 0; i < rounds(100); i++) {
        uint32_t sum, n = 100, expected = 0;
        code[128 + 4] = 0;
        __asm__ volatile("call *%[f]" : "=a"(sum), "+d"(n) : "c"(code + 132), [f] "r"(code + 128) : "memory", "cc");
        for (int k = 0; k < 100; k++) expected += k;
        CHECK(sum == expected, "loop: %u instead of %u", sum, expected);
    }
}

// An instruction that lies across two pages, changed in either.
static void across_pages(void) {
    uint8_t *code = pages(2, RWX);
    for (long i = 0; i < rounds(3000); i++) {
        int before = 1 + i % 5;
        uint8_t *at = code + PAGE - before;
        uint32_t value = rnd();
        put_constant(at, value);
        CHECK(call_at(at) == value, "%d bytes before the page", before);
        uint8_t *byte = at + 1 + rnd() % 4;
        *byte ^= 0x5a;
        memcpy(&value, at + 1, 4);
        uint32_t got = call_at(at);
        CHECK(got == value, "changed at %ld of %d: %#x instead of %#x", (long)(byte - at), before, got, value);
    }
}

// Data beside the code is written all the time, code is not: it must still run, whatever is invalidated.
static void data_beside(void) {
    uint8_t *code = pages(1, RWX);
    volatile uint32_t *data = (uint32_t *)(code + 2048);
    put_constant(code + 2048 - 6, 77);
    for (long i = 0; i < rounds(30000); i++) {
        data[i % 64] = i;
        CHECK(call_at(code + 2048 - 6) == 77 && data[i % 64] == (uint32_t)i, "round %ld", i);
    }
}

// Every way to store.
static void store_word(uint8_t *at, const uint8_t *new, int how) {
    uint32_t old32, new32;
    uint64_t new64;
    memcpy(&old32, at, 4);
    memcpy(&new32, new, 4);
    memcpy(&new64, new, 8);
    switch (how) {
    case 0: for (int i = 0; i < 8; i++) ((volatile uint8_t *)at)[i] = new[i]; break;
    case 1: for (int i = 0; i < 4; i++) { uint16_t w; memcpy(&w, new + 2 * i, 2); ((volatile uint16_t *)at)[i] = w; } break;
    case 2: __asm__ volatile("xchg %0, %1" : "+r"(new32), "+m"(*(uint32_t *)at)); break;
    case 3: __asm__ volatile("lock cmpxchg %2, %1" : "+a"(old32), "+m"(*(uint32_t *)at) : "r"(new32)); break;
    case 4: __asm__ volatile("lock xorl %1, %0" : "+m"(*(uint32_t *)at) : "r"(old32 ^ new32)); break;
    case 5: __asm__ volatile("movq (%0), %%xmm0; movq %%xmm0, (%1)" : : "r"(new), "r"(at) : "xmm0", "memory"); break;
    case 6: __asm__ volatile("fildll (%0); fistpll (%1)" : : "r"(new), "r"(at) : "memory"); break;
    case 7: { void *d = at; const void *s = new; size_t n = 8; __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); } break;
    case 8: { void *d = at; size_t n = 2; __asm__ volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(new32) : "memory"); } break;
    case 9: __asm__ volatile("movnti %1, %0" : "=m"(*(uint32_t *)at) : "r"(new32)); break;
    case 10: __asm__ volatile("addl %1, %0" : "+m"(*(uint32_t *)at) : "r"(new32 - old32)); break;
    case 11: { // A push, with the stack in the code page.
#ifdef __x86_64__
        __asm__ volatile("mov %%rsp, %%rbx; lea 8(%0), %%rsp; pushq (%1); mov %%rbx, %%rsp" : : "r"(at), "r"(new) : "rbx", "memory");
#else
        __asm__ volatile("mov %%esp, %%edi; lea 4(%0), %%esp; pushl (%1); mov %%edi, %%esp" : : "r"(at), "r"(new) : "edi", "memory");
#endif
    } break;
#ifdef __x86_64__
    case 12: __asm__ volatile("movq %1, %0" : "=m"(*(uint64_t *)at) : "r"(new64)); break;
    case 13: __asm__ volatile("movdqu (%0), %%xmm1; movq (%1), %%xmm2; movsd %%xmm2, %%xmm1; movdqu %%xmm1, (%0)" : : "r"(at), "r"(new) : "xmm1", "xmm2", "memory"); break;
    case 14: { uint64_t lo, hi; memcpy(&lo, at, 8); memcpy(&hi, at + 8, 8); __asm__ volatile("lock cmpxchg16b %0" : "+m"(*(__int128 *)at), "+a"(lo), "+d"(hi) : "b"(new64), "c"(hi) : "cc"); } break;
#endif
    default: memcpy(at, new, 8);
    }
}

static void store_kinds(void) {
    uint8_t *code = pages(1, RWX);
    for (long i = 0; i < rounds(3000); i++) {
        int how = i % 16;
        uint8_t *at = code + rnd() % 200 * 16, new[8];
        uint32_t value = rnd() & 0x3fffffff;
        put_constant(at, ~value);
        CHECK(call_at(at) == ~value, "before");
        // mov eax, imm32; ret; two bytes that keep it a number for x87. Case 8 repeats the first four bytes.
        put_constant(new, value);
        new[6] = 0x12, new[7] = 0x34;
        if (how == 8) {
            // b0 XX c3 90: mov al; ret
            uint8_t small[] = {0xb0, value, 0xc3, 0x90};
            memcpy(new, small, 4);
            store_word(at, new, how);
            uint32_t got = call_at(at) & 0xff;
            CHECK(got == (value & 0xff), "kind 8: %#x instead of %#x", got, value & 0xff);
            continue;
        }
        store_word(at, new, how);
        uint32_t expected;
        memcpy(&expected, at + 1, 4);
        uint32_t got = call_at(at);
        CHECK(got == expected, "kind %d: %#x instead of %#x", how, got, expected);
        // Kinds that write four bytes leave the immediate's last.
        CHECK((expected & 0xffffff) == (value & 0xffffff), "kind %d stored something else", how);
    }
}

// The kernel stores into code: read(2), process_vm_writev(2), /proc/self/mem.
static void kernel_stores(void) {
    uint8_t *code = pages(1, RWX), new[6];
    int pipe_[2], mem = MUST(open("/proc/self/mem", O_RDWR));
    MUST(pipe(pipe_));
    for (long i = 0; i < rounds(1000); i++) {
        uint32_t value = rnd();
        uint8_t *at = code + i * 16 % PAGE;
        put_constant(at, ~value);
        CHECK(call_at(at) == ~value, "before");
        put_constant(new, value);
        struct iovec from = {new, 6}, to = {at, 6};
        if (i % 3 == 0) {
            MUST(write(pipe_[1], new, 6));
            MUST(read(pipe_[0], at, 6));
        } else if (i % 3 == 1) {
            MUST(process_vm_writev(getpid(), &from, 1, &to, 1, 0));
        } else {
            MUST(pwrite(mem, new, 6, (uintptr_t)at));
        }
        uint32_t got = call_at(at);
        CHECK(got == value, "way %ld: %#x instead of %#x", i % 3, got, value);
    }
}

// After fork the pages are shared until one side writes: its code changes, the other's does not.
static void fork_copies(void) {
    uint8_t *code = pages(1, RWX);
    for (long i = 0; i < rounds(60); i++) {
        put_constant(code, i);
        CHECK(call_at(code) == (uint32_t)i, "before");
        pid_t pid = MUST(fork());
        if (!pid) {
            CHECK(call_at(code) == (uint32_t)i, "child, before");
            put_constant(code, i + 1000);
            CHECK(call_at(code) == (uint32_t)i + 1000, "child, after");
            _exit(0);
        }
        put_constant(code + 64, 5);
        CHECK(call_at(code) == (uint32_t)i && call_at(code + 64) == 5, "parent");
        reap(pid);
        CHECK(call_at(code) == (uint32_t)i, "parent, after");
    }
}

const struct test code_tests[] = {
    {"code-same-page", same_page},     {"code-ahead", ahead},
    {"code-across-pages", across_pages}, {"code-data-beside", data_beside},
    {"code-store-kinds", store_kinds}, {"code-kernel-stores", kernel_stores},
    {"code-fork-copies", fork_copies}, {0, 0},
};
