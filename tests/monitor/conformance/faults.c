// Faults of the program arrive as signals with the right number, code and address.
#include "case.h"
#include <setjmp.h>
#include <ucontext.h>

static sigjmp_buf back;
static volatile int got, code;
static void *volatile address;
static volatile long trap, error_code;

static void handle(int signal, siginfo_t *info, void *context) {
    ucontext_t *at = context;
    got = signal;
    code = info->si_code;
    address = info->si_addr;
    trap = at->uc_mcontext.gregs[REG_TRAPNO];
    error_code = at->uc_mcontext.gregs[REG_ERR];
    siglongjmp(back, 1);
}

// Runs `body`, of which a fault is expected.
#define FAULT(...)                                                                                   \
    do {                                                                                             \
        struct sigaction action_ = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};                 \
        for (int i_ = SIGILL; i_ <= SIGSEGV; i_++)                                                   \
            if (i_ == SIGILL || i_ == SIGTRAP || i_ == SIGBUS || i_ == SIGFPE || i_ == SIGSEGV)      \
                sigaction(i_, &action_, NULL);                                                       \
        got = code = 0;                                                                              \
        if (!sigsetjmp(back, 1)) { __VA_ARGS__; }                                                    \
    } while (0)

CASE(reading_null_is_sigsegv_maperr) {
    FAULT((void)*(volatile int *)0);
    CHECK(got == SIGSEGV && code == SEGV_MAPERR && address == NULL);
    CHECK(trap == 14 && error_code == 4);
}

CASE(writing_near_null_has_its_address) {
    FAULT(*(volatile int *)0x1234 = 1);
    CHECK(got == SIGSEGV && code == SEGV_MAPERR && address == (void *)0x1234);
    CHECK(error_code == 6);
}

CASE(writing_read_only_memory_is_accerr) {
    char *at = pages(2);
    mprotect(at, 2 * PAGE, PROT_READ);
    FAULT(at[PAGE + 5] = 1);
    CHECK(got == SIGSEGV && code == SEGV_ACCERR && address == at + PAGE + 5);
    CHECK(error_code == 7 || error_code == 6);
}

CASE(reading_protected_memory_is_accerr) {
    char *at = pages(1);
    mprotect(at, PAGE, PROT_NONE);
    FAULT((void)*(volatile char *)(at + 9));
    CHECK(got == SIGSEGV && code == SEGV_ACCERR && address == at + 9);
}

CASE(running_data_is_accerr) {
    char *at = pages(1);
    at[0] = 0xc3;
    FAULT(((void (*)(void))at)());
    CHECK(got == SIGSEGV && code == SEGV_ACCERR && address == at);
    CHECK(error_code & 16);
}

CASE(a_jump_to_nowhere_is_maperr) {
    FAULT(((void (*)(void))0x5000)());
    CHECK(got == SIGSEGV && code == SEGV_MAPERR && address == (void *)0x5000);
}

CASE(an_address_that_is_not_canonical_is_a_protection_fault) {
    FAULT((void)*(volatile char *)0x8000000000000000ul);
    CHECK(got == SIGSEGV && code == SI_KERNEL && address == NULL && trap == 13);
}

CASE(a_kernel_address_is_maperr) {
    FAULT((void)*(volatile char *)0xffffffff81000000ul);
    CHECK(got == SIGSEGV && code == SEGV_MAPERR && address == (void *)0xffffffff81000000ul);
}

CASE(division_by_zero_is_intdiv) {
    volatile int zero = 0, seven = 7;
    FAULT(zero = seven / zero);
    CHECK(got == SIGFPE && code == FPE_INTDIV && address != NULL && trap == 0);
}

CASE(an_overflowing_division_is_intdiv) {
    volatile int least = INT32_MIN, minus = -1;
    FAULT(least = least / minus);
    CHECK(got == SIGFPE && code == FPE_INTDIV);
}

CASE(an_undefined_instruction_is_sigill) {
    FAULT(__asm__ volatile("ud2"));
    CHECK(got == SIGILL && code == ILL_ILLOPN && trap == 6);
}

CASE(a_privileged_instruction_is_sigsegv) {
    FAULT(__asm__ volatile("hlt"));
    CHECK(got == SIGSEGV && code == SI_KERNEL && trap == 13);
    FAULT(__asm__ volatile("cli"));
    CHECK(got == SIGSEGV && code == SI_KERNEL && trap == 13);
}

CASE(a_breakpoint_is_sigtrap) {
    FAULT(__asm__ volatile("int3"));
    CHECK(got == SIGTRAP && code == SI_KERNEL && trap == 3);
}

CASE(a_single_step_is_sigtrap) {
    FAULT(__asm__ volatile("pushf\n orl $0x100, (%rsp)\n popf\n nop\n nop"));
    CHECK(got == SIGTRAP && code == TRAP_TRACE && trap == 1);
}

CASE(beyond_the_end_of_a_file_is_sigbus) {
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    DO(ftruncate(fd, PAGE));
    char *at = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    at[PAGE - 1] = 1;
    FAULT((void)*(volatile char *)(at + PAGE));
    CHECK(got == SIGBUS && code == BUS_ADRERR && address == at + PAGE);
    FAULT(at[2 * PAGE + 7] = 1);
    CHECK(got == SIGBUS && code == BUS_ADRERR && address == at + 2 * PAGE + 7);
}

CASE(a_file_that_grows_gives_what_it_refused) {
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    char *at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    FAULT(at[PAGE] = 1);
    CHECK(got == SIGBUS);
    DO(ftruncate(fd, 2 * PAGE));
    at[PAGE] = 5;
    CHECK(at[PAGE] == 5);
}

CASE(a_file_that_shrinks_takes_its_pages_away) {
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    DO(ftruncate(fd, 2 * PAGE));
    char *at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    at[0] = at[PAGE] = 1;
    DO(ftruncate(fd, PAGE));
    FAULT((void)*(volatile char *)(at + PAGE));
    CHECK(got == SIGBUS && address == at + PAGE);
    CHECK(at[0] == 1);
}

CASE(files_side_by_side_end_each_for_itself) {
    char *room = pages(4);
    put("one", "1");
    put("two", "2");
    int one = DO(open("one", O_RDONLY)), two = DO(open("two", O_RDONLY));
    DO(mmap(room, 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, one, 0));
    DO(mmap(room + 2 * PAGE, 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, two, 0));
    FAULT((void)*(volatile char *)(room + PAGE));
    CHECK(got == SIGBUS && address == room + PAGE);
    FAULT((void)*(volatile char *)(room + 3 * PAGE));
    CHECK(got == SIGBUS && address == room + 3 * PAGE);
    CHECK(room[2 * PAGE] == '2');
}

static char *repaired;
static void repair(int signal, siginfo_t *info, void *context) {
    got++;
    mprotect((void *)((uintptr_t)info->si_addr & ~(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE);
}

CASE(a_repaired_fault_goes_on) {
    struct sigaction action = {.sa_sigaction = repair, .sa_flags = SA_SIGINFO};
    repaired = pages(8);
    mprotect(repaired, 8 * PAGE, PROT_NONE);
    sigaction(SIGSEGV, &action, NULL);
    got = 0;
    for (int i = 0; i < 8; i++) repaired[i * PAGE] = i;
    CHECK(got == 8);
    for (int i = 0; i < 8; i++) CHECK(repaired[i * PAGE] == i);
}

static void skip_one(int signal, siginfo_t *info, void *context) {
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
    got++;
}

CASE(a_handler_may_step_over_the_instruction) {
    struct sigaction action = {.sa_sigaction = skip_one, .sa_flags = SA_SIGINFO};
    sigaction(SIGILL, &action, NULL);
    got = 0;
    __asm__ volatile("ud2");
    __asm__ volatile("ud2");
    CHECK(got == 2);
}

static void recurse(volatile char *from) {
    volatile char room[4096];
    room[0] = from[0];
    recurse(room);
    room[1] = 1;
}

CASE(a_stack_overflow_reaches_the_alternate_stack) {
    stack_t stack = {.ss_sp = pages(16), .ss_size = 16 * PAGE};
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    volatile char first[1] = {0};
    DO(sigaltstack(&stack, NULL));
    sigaction(SIGSEGV, &action, NULL);
    got = 0;
    if (!sigsetjmp(back, 1)) recurse(first);
    CHECK(got == SIGSEGV && code == SEGV_MAPERR);
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, NULL);
}

CASE(an_unmasked_floating_point_error_is_sigfpe) {
    unsigned control = 0x1f80 & ~(4u << 7), normal = 0x1f80;
    FAULT(__asm__ volatile("ldmxcsr %0\n xorps %%xmm0, %%xmm0\n movss %1, %%xmm1\n divss %%xmm0, %%xmm1" ::"m"(control), "m"((float){1}) : "xmm0", "xmm1"));
    __asm__ volatile("ldmxcsr %0" ::"m"(normal));
    CHECK(got == SIGFPE && code == FPE_FLTDIV && trap == 19);
}

CASE(an_unaligned_vector_access_is_a_protection_fault) {
    char *at = pages(1);
    FAULT(__asm__ volatile("movaps %0, %%xmm0" ::"m"(at[1]) : "xmm0"));
    CHECK(got == SIGSEGV && code == SI_KERNEL && trap == 13);
}

CASE(a_fault_in_a_system_call_is_only_efault) {
    FAULT(FAILS(EFAULT, syscall(SYS_write, 1, 16l, 8)));
    CHECK(got == 0);
}

CASE(the_low_pages_are_not_there) {
    FAULT(*(volatile char *)0x20000 = 1);
    CHECK(got == SIGSEGV);
}
