// Old ways: segments of one's own, 32-bit and 16-bit code, the vsyscall page, the vDSO, instructions that 64-bit mode lost.
#include "stress.h"
#include <asm/ldt.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <time.h>

// False if the kernel has no such segments: those of 16 bits are an option of its configuration.
static bool set_ldt(int entry, uintptr_t base, unsigned limit, bool is_code, bool is_32) {
    struct user_desc d = {.entry_number = entry, .base_addr = base, .limit = limit, .seg_32bit = is_32,
                          .contents = is_code ? MODIFY_LDT_CONTENTS_CODE : MODIFY_LDT_CONTENTS_DATA, .useable = 1};
    // The kernel gives errors as 32-bit numbers, which libc does not take for such.
    int result = syscall(SYS_modify_ldt, 0x11, &d, sizeof d);
    CHECK(result == 0 || !is_32, "modify_ldt: %d, %s", result, strerror(errno));
    return result == 0;
}
static unsigned selector(int entry) { return entry << 3 | 7; }

static void *low_pages(size_t count, int rights) {
#ifdef __x86_64__
    void *p = mmap(0, count * PAGE, rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CHECK(p != MAP_FAILED, "mmap");
    return p;
#else
    return pages(count, rights);
#endif
}

// A data segment with a base: accesses through FS or GS are relative to it; its limit holds in 32-bit code.
static void segments(void) {
    uint32_t *data = low_pages(1, PROT_READ | PROT_WRITE);
    for (int i = 0; i < 1024; i++) data[i] = i * 3;
    for (long i = 0; i < rounds(300); i++) {
        unsigned at = rnd() % 900, got, saved;
        set_ldt(1, (uintptr_t)(data + at), 0xfff, false, true);
        // FS: libc's thread data is in FS in 64-bit and in GS in 32-bit programs.
#ifdef __x86_64__
        __asm__ volatile("mov %%gs, %1; mov %2, %%gs; mov %%gs:8, %0; mov %1, %%gs" : "=&r"(got), "=&r"(saved) : "r"(selector(1)) : "memory");
#else
        __asm__ volatile("mov %%fs, %1; mov %2, %%fs; mov %%fs:8, %0; mov %1, %%fs" : "=&r"(got), "=&r"(saved) : "r"(selector(1)) : "memory");
#endif
        CHECK(got == (at + 2) * 3, "%u instead of %u", got, (at + 2) * 3);
    }
}

// 32-bit code in a segment of the LDT, entered by a far return from a 64-bit or 32-bit program; within it instructions that
// 64-bit mode has not; then 16-bit code.
#ifdef __x86_64__
// lcall *m16:32 from 64-bit mode pushes 32-bit CS and RIP, and a 32-bit far return pops them: the call is made from a low page, with
// the stack in another.
static uint8_t *gate_page;
static uint64_t gate(unsigned cs, uint32_t offset, uint32_t a, uint32_t b, uint32_t stack) {
    // edi = pointer to m16:32, esi = a, edx = b, ecx = stack; returns rax = edx:eax
    static const uint8_t code[] = {
        0x53, 0x55, 0x41, 0x57,             // push rbx, rbp, r15
        0x49, 0x89, 0xe7,                   // mov r15, rsp
        0x89, 0xcc,                         // mov esp, ecx
        0x89, 0xf0,                         // mov eax, esi
        0xff, 0x1f,                         // lcall *[rdi]
        0x4c, 0x89, 0xfc,                   // mov rsp, r15
        0x48, 0xc1, 0xe2, 0x20,             // shl rdx, 32
        0x48, 0x09, 0xd0,                   // or rax, rdx
        0x41, 0x5f, 0x5d, 0x5b, 0xc3,       // pop r15, rbp, rbx; ret
    };
    struct target { uint32_t offset; uint16_t cs; } __attribute__((packed)) *target = (struct target *)(gate_page + 512);
    if (!gate_page[0]) memcpy(gate_page, code, sizeof code);
    target->offset = offset, target->cs = cs;
    uint64_t (*f)(void *, uint32_t, uint32_t, uint32_t) = (void *)gate_page;
    return f(target, a, b, stack);
}
#else
static uint8_t *gate_page;
static uint64_t gate(unsigned cs, uint32_t offset, uint32_t a, uint32_t b, uint32_t stack) {
    (void)stack;
    struct { uint32_t offset; uint16_t cs; } __attribute__((packed)) target = {offset, cs};
    __asm__ volatile("push %%ebx; push %%ebp; lcall *(%[to]); pop %%ebp; pop %%ebx" : "+a"(a), "+d"(b) : [to] "S"(&target) : "ecx", "edi", "memory", "cc");
    return (uint64_t)b << 32 | a;
}
#endif

static void old_code(void) {
    uint8_t *code = low_pages(1, RWX), *stack = low_pages(2, PROT_READ | PROT_WRITE);
    gate_page = low_pages(1, RWX);
    uint32_t top = (uint32_t)(uintptr_t)stack + 2 * PAGE - 64;
    // 32-bit: inc edx (42: a REX prefix in 64-bit mode); pusha; aam; popa; add al, 5; daa; lcall's way back: retf
    static const uint8_t code32[] = {0x42, 0x60, 0xd4, 0x0a, 0x61, 0x04, 0x05, 0x27, 0xcb};
    // 16-bit: add ax, 1234h (05 34 12); 66: inc edx (66 42); retf with 32-bit operands (66 cb)
    static const uint8_t code16[] = {0x05, 0x34, 0x12, 0x66, 0x42, 0x66, 0xcb};
    memcpy(code + 16, code32, sizeof code32);
    memcpy(code + 64, code16, sizeof code16);
    set_ldt(2, (uintptr_t)code, 0xfff, true, true);
    bool has_16 = set_ldt(3, (uintptr_t)code, 0xfff, true, false);
    if (!has_16) note("no 16-bit segments");
    for (long i = 0; i < rounds(500); i++) {
        uint32_t a = rnd(), b = rnd();
        // Decimal digits, so that DAA is easy to foretell.
        a = (a & ~0xffu) | (a % 9 + 1) % 5 | (a % 8) << 4;
        uint8_t al = a;
        uint8_t sum = (al & 15) + 5 + (al >> 4) * 10;
        uint8_t bcd = sum / 10 % 10 << 4 | sum % 10;
        uint64_t got = gate(selector(2), 16, a, b, top);
        CHECK((uint8_t)got == bcd && ((uint32_t)got ^ a) >> 8 == 0, "32-bit: eax %#x instead of %#x", (uint32_t)got, (a & ~0xffu) | bcd);
        CHECK(got >> 32 == (uint32_t)(b + 1), "32-bit: edx %#x instead of %#x", (uint32_t)(got >> 32), b + 1);
        if (!has_16) continue;
        got = gate(selector(3), 64, a, b, top);
        CHECK((uint32_t)got == ((a & 0xffff0000) | (uint16_t)(a + 0x1234)), "16-bit: eax %#x", (uint32_t)got);
        CHECK(got >> 32 == (uint32_t)(b + 1), "16-bit: edx %#x", (uint32_t)(got >> 32));
    }
}

// The vDSO's clock agrees with the system call's, and getcpu with where the thread is.
static void vdso(void) {
    CHECK(getauxval(AT_SYSINFO_EHDR), "there is no vDSO");
    for (long i = 0; i < rounds(1000); i++) {
        struct timespec a, b, c;
        MUST(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &a));
        clock_gettime(CLOCK_MONOTONIC, &b);
        MUST(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &c));
        int64_t x = a.tv_sec * 1000000000ll + a.tv_nsec, y = b.tv_sec * 1000000000ll + b.tv_nsec, z = c.tv_sec * 1000000000ll + c.tv_nsec;
        if (sizeof(long) == 8) CHECK(x <= y && y <= z, "%lld, %lld, %lld", (long long)x, (long long)y, (long long)z);
        if (i % 50 == 0) {
            pin(i / 50);
            CHECK(sched_getcpu() == i / 50 % cpus(), "getcpu says %d", sched_getcpu());
        }
    }
}

#ifdef __x86_64__
// The vsyscall page: its entries are fixed addresses that the kernel emulates on a fault of the instruction fetch.
static void vsyscall(void) {
    typedef long (*time_at)(time_t *);
    typedef int (*day_at)(struct timeval *, void *);
    if (!strstr(get_file("/proc/self/maps"), "[vsyscall]")) skip("the kernel has no vsyscall page");
    for (long i = 0; i < rounds(500); i++) {
        time_t before = time(0), out;
        long got = ((time_at)0xffffffffff600400)(&out);
        CHECK(got == out && got >= before && got <= before + 100, "time %ld, %ld after %ld", got, (long)out, (long)before);
        struct timeval tv;
        CHECK(((day_at)0xffffffffff600000)(&tv, 0) == 0 && tv.tv_sec >= got, "gettimeofday");
    }
}

// From 64-bit into the kernel's 32-bit code segment and back: compatibility mode shares the registers.
static void compatibility(void) {
    uint8_t *code = low_pages(1, RWX), *stack = low_pages(2, PROT_READ | PROT_WRITE);
    gate_page = low_pages(1, RWX);
    // dec eax (48: REX.W in 64-bit mode); arpl-free zone: mov ecx, 3; add eax, ecx; int 80h with getpid is the 32-bit table's
    static const uint8_t text[] = {0x48, 0xb9, 3, 0, 0, 0, 0x01, 0xc8, 0xcb};
    static const uint8_t call[] = {0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xcb};
    memcpy(code, text, sizeof text);
    memcpy(code + 64, call, sizeof call);
    for (long i = 0; i < rounds(1000); i++) {
        uint32_t a = rnd();
        uint32_t top = (uint32_t)(uintptr_t)stack + 2 * PAGE - 64;
        CHECK((uint32_t)gate(0x23, (uint32_t)(uintptr_t)code, a, 0, top) == a + 2, "round %ld", i);
        if (i % 10 == 0) CHECK((pid_t)gate(0x23, (uint32_t)(uintptr_t)code + 64, 0, 0, top) == getpid(), "int 80h");
    }
}
#else
// System calls of 32-bit programs: INT 80h and the vDSO's entry (SYSENTER or SYSCALL).
static void entries(void) {
    uintptr_t entry = getauxval(AT_SYSINFO);
    CHECK(entry, "the vDSO has no entry");
    for (long i = 0; i < rounds(2000); i++) {
        int a = 20, b = 20;
        __asm__ volatile("int $0x80" : "+a"(a) : : "memory");
        __asm__ volatile("call *%1" : "+a"(b) : "S"(entry) : "memory", "ecx", "edx", "cc");
        CHECK(a == getpid() && b == a, "%d and %d", a, b);
    }
}

// Instructions that only 32-bit code has.
static void lost_instructions(void) {
    for (long i = 0; i < rounds(2000); i++) {
        uint32_t a = rnd() % 100, bcd = a / 10 << 4 | a % 10, ax = a, before, after;
        __asm__ volatile("aam" : "+a"(ax) : : "cc");
        CHECK((ax & 0xffff) == (a / 10 << 8 | a % 10), "aam: %#x", ax);
        __asm__ volatile("aad" : "+a"(ax) : : "cc");
        CHECK((ax & 0xff) == a, "aad: %#x", ax);
        uint32_t sum = bcd;
        __asm__ volatile("add %%al, %%al; daa" : "+a"(sum) : : "cc");
        CHECK((sum & 0xff) == (uint32_t)(a * 2 / 10 % 10 << 4 | a * 2 % 10), "daa: %#x", sum);
        __asm__ volatile("mov %%esp, %0; pusha; popa; push %%es; pop %%es; mov %%esp, %1" : "=r"(before), "=r"(after) : : "memory");
        CHECK(before == after, "the stack moved");
        uint8_t al;
        __asm__ volatile("stc; .byte 0xd6" : "=a"(al) : : "cc");
        CHECK(al == 0xff, "salc");
        uint32_t bounds[2] = {5, 10};
        __asm__ volatile("bound %0, %1" : : "r"(7), "m"(bounds));
        __asm__ volatile("xor %%eax, %%eax; into" : : : "eax", "cc");
    }
}
#endif

const struct test legacy_tests[] = {
    {"legacy-segments", segments}, {"legacy-old-code", old_code}, {"legacy-vdso", vdso},
#ifdef __x86_64__
    {"legacy-vsyscall", vsyscall}, {"legacy-compatibility", compatibility},
#else
    {"legacy-entries", entries},   {"legacy-lost-instructions", lost_instructions},
#endif
    {0, 0},
};
