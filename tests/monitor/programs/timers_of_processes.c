// Timers over fork and exec: a child has none of its parent's; what setitimer made stays over an exec, what timer_create made does not.
#include "show.h"
#include <signal.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>

static long told(void) {
    struct timespec t;
    return clock_gettime(CLOCK_MONOTONIC, &t) ? -1 : t.tv_sec * 1000000000l + t.tv_nsec;
}

static void after_exec(int number, long before) {
    TEXT("%d", told() >= before);
    struct itimerval left;
    struct itimerspec setting;
    SHOW(getitimer(ITIMER_REAL, &left));
    TEXT("%d", left.it_value.tv_sec > 3000);
    SHOW(syscall(SYS_timer_gettime, number, &setting));
    SHOW(timerfd_gettime(9, &setting));
    TEXT("%d", setting.it_value.tv_sec > 3000);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        after_exec(atoi(argv[1]), atol(argv[2]));
        return 0;
    }
    struct itimerval hour = {{0, 0}, {3600, 0}}, left;
    struct itimerspec same = {{0, 0}, {3600, 0}}, setting;
    int number, status;
    SHOW(setitimer(ITIMER_REAL, &hour, NULL));
    SHOW(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, &number));
    SHOW(syscall(SYS_timer_settime, number, 0, &same, NULL));
    DO(dup2(timerfd_create(CLOCK_MONOTONIC, 0), 9));
    SHOW(timerfd_settime(9, 0, &same, NULL));
    long before = told();
    pid_t child = fork();
    if (!child) {
        TEXT("%d", told() >= before);
        SHOW(getitimer(ITIMER_REAL, &left));
        TEXT("%ld", left.it_value.tv_sec);
        SHOW(syscall(SYS_timer_gettime, number, &setting));
        SHOW(timerfd_gettime(9, &setting));
        TEXT("%d", setting.it_value.tv_sec > 3000);
        int own = -1;
        SHOW(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, &own));
        SHOW(syscall(SYS_timer_settime, own, 0, &same, NULL));
        _exit(0);
    }
    SHOW(waitpid(child, &status, 0) == child);
    TEXT("%d", status);
    SHOW(syscall(SYS_timer_gettime, number, &setting));
    TEXT("%d", setting.it_value.tv_sec > 3000);
    char text[16], now[32];
    snprintf(text, sizeof text, "%d", number);
    snprintf(now, sizeof now, "%ld", told());
    execl(argv[0], argv[0], text, now, NULL);
    return 1;
}
