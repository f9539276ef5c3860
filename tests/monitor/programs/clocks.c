// Clocks: what the vDSO tells and what the system calls tell is one time, in order, on every thread; and nobody changes it.
#include "show.h"
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <time.h>
#include <unwind.h>

static const int CLOCKS[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME};
enum { COUNT = sizeof CLOCKS / sizeof *CLOCKS };

static long nanoseconds(struct timespec t) { return t.tv_sec * 1000000000l + t.tv_nsec; }

static long told(int clock) {
    struct timespec t;
    return clock_gettime(clock, &t) ? -1 : nanoseconds(t);
}

static long asked(int clock) {
    struct timespec t;
    return syscall(SYS_clock_gettime, clock, &t) ? -1 : nanoseconds(t);
}

static void in_order(void) {
    for (int c = 0; c < COUNT; c++) {
        long before = told(CLOCKS[c]), back = 0;
        for (int i = 0; i < 20000; i++) {
            long now = i % 500 ? told(CLOCKS[c]) : asked(CLOCKS[c]);
            back += now < before;
            before = now;
        }
        TEXT("clock %d went back %ld times", CLOCKS[c], back);
    }
}

// Everybody's latest reading. A reading begun after one is there must not be less.
static _Atomic long latest;
static _Atomic int stop;

static void *read_on(void *argument) {
    long back = 0;
    (void)argument;
    while (!stop) {
        long seen = latest, now = told(CLOCK_MONOTONIC);
        back += now < seen;
        while (seen < now && !__atomic_compare_exchange_n((long *)&latest, &seen, now, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    }
    return (void *)back;
}

static void threads(void) {
    pthread_t thread[3];
    long back = 0;
    for (int i = 0; i < 3; i++) pthread_create(&thread[i], NULL, read_on, NULL);
    for (int i = 0; i < 100; i++) usleep(500), told(CLOCK_MONOTONIC);
    stop = 1;
    for (int i = 0; i < 3; i++) {
        void *result;
        pthread_join(thread[i], &result);
        back += (long)result;
    }
    TEXT("between threads it went back %ld times", back);
}

static void one_time(void) {
    struct timeval day, none;
    struct timezone zone = {77, 77};
    long before = told(CLOCK_REALTIME);
    SHOW(gettimeofday(&day, &zone));
    long between = day.tv_sec * 1000000000l + day.tv_usec * 1000l;
    TEXT("%d %d %d", between >= before - 1000, between <= told(CLOCK_REALTIME), zone.tz_dsttime);
    SHOW(syscall(SYS_gettimeofday, &none, NULL));
    TEXT("%d", none.tv_sec >= day.tv_sec);
    time_t seconds = 0;
    time_t result = time(&seconds);
    TEXT("%d %d %d", result == seconds, seconds >= day.tv_sec - 1, seconds <= told(CLOCK_REALTIME) / 1000000000l);
    TEXT("%d", syscall(SYS_time, NULL) >= seconds);
    before = told(CLOCK_MONOTONIC);
    TEXT("%d", told(CLOCK_BOOTTIME) >= before);
    for (int c = 0; c < COUNT; c++) {
        struct timespec one, other;
        SHOW(clock_getres(CLOCKS[c], &one));
        SHOW(syscall(SYS_clock_getres, CLOCKS[c], &other));
        TEXT("%d", one.tv_sec == 0 && one.tv_nsec == other.tv_nsec);
    }
    SHOW(clock_getres(CLOCK_MONOTONIC, NULL));
    SHOW(clock_getres(99, NULL));
    SHOW(clock_gettime(99, (struct timespec *)&none));
    SHOW(clock_gettime(-1, (struct timespec *)&none));
    SHOW(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, (void *)8));
    SHOW(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, NULL));
    TEXT("%d", told(CLOCK_PROCESS_CPUTIME_ID) > 0 && told(CLOCK_THREAD_CPUTIME_ID) > 0);
    clockid_t thread;
    SHOW(pthread_getcpuclockid(pthread_self(), &thread));
    TEXT("%d", told(thread) > 0);
    TEXT("%d", sched_getcpu() >= 0);
}

static sigjmp_buf back_from_fault;
static void on_fault(int signal) { siglongjmp(back_from_fault, signal); }

static void protected_pages(void) {
    char line[512], name[64], rights[8];
    unsigned long start, end;
    FILE *maps = fopen("/proc/self/maps", "r");
    signal(SIGSEGV, on_fault);
    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %63s", &start, &end, rights, name) != 4) continue;
        if (strcmp(name, "[vdso]") && strcmp(name, "[vvar]")) continue;
        int caught = sigsetjmp(back_from_fault, 1);
        if (!caught) *(volatile long *)start = 1;
        TEXT("%s %s %d", name, rights, caught == SIGSEGV);
        if (!strcmp(name, "[vdso]")) TEXT("%d", start == getauxval(AT_SYSINFO_EHDR));
    }
    fclose(maps);
    signal(SIGSEGV, SIG_DFL);
}

// A signal in the vDSO: its frames lead to main.
static unsigned long object, callers_end;
static volatile int met, lost;

static _Unwind_Reason_Code frame(struct _Unwind_Context *context, void *argument) {
    int *seen = argument;
    unsigned long at = _Unwind_GetIP(context);
    if (at - object < 8192) seen[0] = 1;
    if (at - (unsigned long)told < callers_end) seen[1] = 1;
    return _URC_NO_REASON;
}

static void on_alarm(int signal) {
    int seen[2] = {0, 0};
    (void)signal;
    _Unwind_Backtrace(frame, seen);
    met += seen[0];
    lost += seen[0] && !seen[1];
}

static void unwound(void) {
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    struct timespec t;
    object = getauxval(AT_SYSINFO_EHDR);
    callers_end = (unsigned long)unwound - (unsigned long)told + 4096;
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &often, NULL);
    for (long limit = told(CLOCK_REALTIME) + 20000000000l; met < 5 && told(CLOCK_REALTIME) < limit;)
        for (int i = 0; i < 1000; i++) clock_gettime(CLOCK_MONOTONIC, &t);
    setitimer(ITIMER_REAL, &never, NULL);
    TEXT("met %d, lost %d", met >= 5, lost);
}

int main(void) {
    TEXT("%d", getauxval(AT_SYSINFO_EHDR) != 0);
    in_order();
    threads();
    one_time();
    protected_pages();
    unwound();
    return 0;
}
