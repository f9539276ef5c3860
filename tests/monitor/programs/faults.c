// Faults as signals: number, code, address, whether the frame's instruction is the one that failed, and what a handler changes
// or leaves in the registers. Argument: where it happens, "here", in a "child", in a "thread". Reads its input first, so that in
// a function all of it happens in a clone.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static __thread sigjmp_buf back;
static const char *what;
static char *base;
static volatile long skip;

// The address as an offset into our own page where it lies in it: the rest is the same everywhere.
static void show(const siginfo_t *info, const ucontext_t *context) {
    uintptr_t address = (uintptr_t)info->si_addr;
    uintptr_t ip = context->uc_mcontext.gregs[REG_RIP];
    const char *place = "absolute";
    if (base && address - (uintptr_t)base < 1 << 20) {
        place = "page";
        address -= (uintptr_t)base;
    } else if (address == ip) {
        place = "instruction";
        address = 0;
    }
    long trap = context->uc_mcontext.gregs[REG_TRAPNO];
    if (address > 1 << 20) {
        // Somewhere in the stack.
        place = "far";
        address &= 0;
    }
    printf("%s: signal %d code %d %s %#lx trap %ld", what, info->si_signo, info->si_code, place, (unsigned long)address, trap);
    // Whether the page was there already differs from run to run; CR2 of other traps is an older one's.
    if (trap == 14)
        printf(" error %#lx cr2 %d", (unsigned long)context->uc_mcontext.gregs[REG_ERR] & 0x16,
               context->uc_mcontext.gregs[REG_CR2] == (greg_t)(uintptr_t)info->si_addr);
    printf("\n");
}

static void handle(int signal, siginfo_t *info, void *context) {
    (void)signal;
    show(info, context);
    siglongjmp(back, 1);
}

// How often.
static volatile int caught;

static void count(int signal, siginfo_t *info, void *context) {
    (void)context;
    caught += signal == SIGSEGV && info->si_addr == 0;
    siglongjmp(back, 1);
}

// Goes on behind the instruction, with another value and whatever is in the vector registers.
static void step_over(int signal, siginfo_t *info, void *context) {
    (void)signal;
    ucontext_t *user = context;
    show(info, user);
    user->uc_mcontext.gregs[REG_RIP] += skip;
    user->uc_mcontext.gregs[REG_RAX] = 4711;
    __asm__ volatile("vpxor %%ymm7, %%ymm7, %%ymm7\n vpxor %%ymm15, %%ymm15, %%ymm15" ::: "xmm7", "xmm15");
}

static void on(void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (int i = 0; i < 5; i++) sigaction(signals[i], &action, 0);
}

#define FAULT(name, ...)                   \
    do {                                   \
        what = name;                       \
        if (!sigsetjmp(back, 1)) {         \
            __VA_ARGS__;                   \
            printf("%s: nothing\n", name); \
        }                                  \
    } while (0)

static int overflow(volatile int depth) {
    volatile char room[4096];
    room[0] = depth;
    return overflow(depth + 1) + room[0];
}

static void all(void) {
    stack_t alternate = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    sigaltstack(&alternate, 0);
    on(handle);
    base = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(base + 0x10000, 0x10000);
    mprotect(base + 0x30000, 0x1000, PROT_READ);
    mprotect(base + 0x40000, 0x1000, PROT_NONE);
    FAULT("null read", (void)*(volatile int *)0);
    FAULT("null write", *(volatile int *)8 = 1);
    FAULT("null call", ((void (*)(void))0)());
    FAULT("unmapped read", (void)*(volatile char *)(base + 0x10123));
    FAULT("unmapped write", *(volatile char *)(base + 0x10456) = 1);
    FAULT("read only", *(volatile char *)(base + 0x30789) = 1);
    FAULT("no access", (void)*(volatile char *)(base + 0x40001));
    FAULT("across a border", *(volatile long *)(base + 0xfffc) = 1);
    FAULT("execute data", ((void (*)(void))(base + 0x50000))());
    FAULT("not canonical", (void)*(volatile char *)0x8000000000000000ul);
    FAULT("vector store", __asm__ volatile("vmovdqu %%ymm0, (%0)" ::"r"(base + 0x30ff0) : "memory"));
    FAULT("string store", { char *to = base + 0x2ff80; long n = 4096; __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(1) : "memory"); });
    FAULT("locked", __atomic_fetch_add((int *)(base + 0x30010), 1, __ATOMIC_SEQ_CST));
    int fd = memfd_create("file", 0);
    if (ftruncate(fd, 5000)) exit(9);
    char *file = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *kept = base;
    base = file;
    FAULT("end of file", (void)*(volatile char *)(file + 4999));
    FAULT("past the end of a file", (void)*(volatile char *)(file + 8200));
    FAULT("written past it", *(volatile char *)(file + 12288) = 1);
    if (ftruncate(fd, 100)) exit(9);
    FAULT("a file that became shorter", (void)*(volatile char *)(file + 4999));
    if (ftruncate(fd, 16384)) exit(9);
    FAULT("and longer", *(volatile char *)(file + 12288) = 1);
    base = kept;
    FAULT("division by zero", __asm__ volatile("xor %%edx, %%edx\n div %0" ::"r"(0) : "rax", "rdx"));
    FAULT("undefined", __asm__ volatile("ud2"));
    FAULT("breakpoint", __asm__ volatile("int3"));
    FAULT("privileged", __asm__ volatile("hlt"));
    unsigned strict = 0x1f80 & ~0x200u, easy = 0x1f80;
    FAULT("floating point", { __asm__ volatile("ldmxcsr %0" ::"m"(strict)); volatile double zero = 0, one = 1; one = one / zero; });
    __asm__ volatile("ldmxcsr %0" ::"m"(easy));
    FAULT("stack overflow", overflow(0));
    // Handled and gone on from: the registers that the handler did not change are as they were.
    on(step_over);
    what = "stepped over";
    skip = 2;
    unsigned long before[4] = {1, 2, 3, 4}, after[8] = {0}, rax;
    __asm__ volatile("vmovdqu %2, %%ymm7\n vmovdqu %2, %%ymm15\n xor %%eax, %%eax\n mov (%%rax), %%eax\n vmovdqu %%ymm7, %1\n vmovdqu %%ymm15, 32+%1\n"
                     : "=&a"(rax), "=m"(after)
                     : "m"(before)
                     : "xmm7", "xmm15", "memory");
    printf("rax %lu, vectors %d %d\n", rax, !memcmp(before, after, 32), !memcmp(before, after + 4, 32));
    // As runtimes do it: null checks by the thousand.
    on(count);
    for (int i = 0; i < 2000; i++) {
        if (!sigsetjmp(back, 1)) *(volatile int *)0 = i;
    }
    printf("caught %d\n", caught);
    fflush(stdout);
}

static void *run(void *argument) {
    all();
    return argument;
}

int main(int argc, char **argv) {
    char line[100];
    const char *where = argc > 1 ? argv[1] : "here";
    if (read(0, line, sizeof line) < 0) return 8;
    if (!strcmp(where, "child")) {
        if (fork() == 0) {
            all();
            _exit(0);
        }
        int status;
        wait(&status);
        printf("child %#x\n", status);
        // Without a handler the child dies by it, and its parent is told.
        struct {
            const char *name;
            int signal;
        } ends[] = {{"SIGSEGV", SIGSEGV}, {"SIGILL", SIGILL}, {"SIGFPE", SIGFPE}, {"SIGTRAP", SIGTRAP}, {"SIGBUS", SIGBUS}};
        for (int i = 0; i < 5; i++) {
            fflush(stdout);
            pid_t child = fork();
            if (child == 0) {
                if (i == 0) *(volatile int *)0 = 1;
                if (i == 1) __asm__ volatile("ud2");
                if (i == 2) __asm__ volatile("xor %%edx, %%edx\n div %0" ::"r"(0) : "rax", "rdx");
                if (i == 3) __asm__ volatile("int3");
                int fd = memfd_create("empty", 0);
                *(volatile char *)mmap(0, 4096, 3, MAP_SHARED, fd, 0) = 1;
                _exit(1);
            }
            siginfo_t info;
            waitid(P_PID, child, &info, WEXITED);
            printf("%s: %d %d\n", ends[i].name, info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED, info.si_status == ends[i].signal);
        }
    } else if (!strcmp(where, "thread")) {
        pthread_t thread;
        pthread_create(&thread, 0, run, 0);
        pthread_join(thread, 0);
    } else {
        all();
    }
    return 0;
}
