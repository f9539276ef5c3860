// Reaches for what belongs to the monitor: `tables write` stores to each place, `tables change` asks for it by system calls,
// `tables jump N` runs the code of the stub.
#include "show.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

static sigjmp_buf back;
static void on_fault(int signal) { siglongjmp(back, signal); }

// Descriptor tables, stub, exception handlers, return frames, task states, the rest of the first two megabytes; behind the window;
// where the page tables lie in physical memory; where the monitor itself has the first of them.
static volatile char *const places[] = {
    (char *)0x20000, (char *)0x21000, (char *)0x23000, (char *)0x23100, (char *)0x40000, (char *)0x40040, (char *)0x80000, (char *)0x80400,
    (char *)0x1ff000, (char *)(64l << 30), (char *)(128l << 30), (char *)0x100000020000, (char *)0x200000000000,
};
#define COUNT (int)(sizeof places / sizeof *places)

int main(int count, char **words) {
    if (strcmp(words[1], "write") == 0) {
        int faults = 0;
        signal(SIGSEGV, on_fault);
        signal(SIGBUS, on_fault);
        for (int i = 0; i < COUNT; i++) {
            if (sigsetjmp(back, 1) == 0) *places[i] = 1;
            else faults++;
        }
        printf("%d of %d stores met a fault\n", faults, COUNT);
        return 0;
    }
    if (strcmp(words[1], "change") == 0) {
        int refused = 0;
        for (int i = 0; i < COUNT; i++) {
            void *at = (void *)((long)places[i] & ~4095l);
            refused += munmap(at, 4096) != 0 || (long)at >= 64l << 30;
            refused += mprotect(at, 4096, PROT_READ | PROT_WRITE) != 0;
            refused += mmap(at, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED;
            refused += mremap((void *)main, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED;
            refused += madvise(at, 4096, MADV_DONTNEED) != 0;
        }
        printf("%d of %d changes were refused\n", refused, 5 * COUNT);
        return 0;
    }
    long where = strtol(words[2], NULL, 0);
    printf("jumps\n");
    fflush(stdout);
    ((void (*)(void))where)();
    printf("came back\n");
    return 0;
}
