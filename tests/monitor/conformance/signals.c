// Signals: rt_sigaction(2), rt_sigprocmask(2), kill(2), sigqueue(3), sigaltstack(2), sigsuspend(2), signalfd(2).
#include "case.h"
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <ucontext.h>

static volatile sig_atomic_t count, last_code, last_value, last_signal;
static volatile int last_pid;

static void handle(int signal, siginfo_t *info, void *context) {
    count++;
    last_signal = signal;
    last_code = info->si_code;
    last_pid = info->si_pid;
    last_value = info->si_value.sival_int;
}

static void take(int signal, int flags) {
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | flags};
    count = 0;
    DO(sigaction(signal, &action, NULL));
}

static sigset_t only(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    return set;
}

CASE(a_signal_to_oneself_arrives_before_kill_returns) {
    take(SIGUSR1, 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    CHECK(count == 1 && last_code == SI_USER && last_pid == getpid());
}

CASE(raise_comes_from_the_own_thread) {
    take(SIGUSR2, 0);
    CHECK(raise(SIGUSR2) == 0);
    CHECK(count == 1 && last_code == SI_TKILL && last_pid == getpid());
}

CASE(sigqueue_carries_a_value) {
    take(SIGUSR1, 0);
    union sigval value = {.sival_int = 4711};
    CHECK(sigqueue(getpid(), SIGUSR1, value) == 0);
    CHECK(count == 1 && last_code == SI_QUEUE && last_value == 4711);
}

CASE(pthread_sigqueue_carries_a_value) {
    take(SIGUSR1, 0);
    union sigval value = {.sival_int = 815};
    CHECK(pthread_sigqueue(pthread_self(), SIGUSR1, value) == 0);
    CHECK(count == 1 && last_code == SI_QUEUE && last_value == 815);
}

CASE(signal_zero_only_asks) {
    CHECK(kill(getpid(), 0) == 0);
    FAILS(EINVAL, kill(getpid(), 65));
    FAILS(EINVAL, kill(getpid(), -1));
}

CASE(a_blocked_signal_waits) {
    sigset_t set = only(SIGUSR1), pending;
    take(SIGUSR1, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    CHECK(count == 0);
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK(count == 1);
}

CASE(ordinary_signals_do_not_queue) {
    sigset_t set = only(SIGUSR1);
    take(SIGUSR1, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 5; i++) raise(SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK(count == 1);
}

CASE(real_time_signals_queue) {
    sigset_t set = only(SIGRTMIN + 1);
    take(SIGRTMIN + 1, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 5; i++) sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i});
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK(count == 5 && last_value == 4);
}

static int order[8], ordered;
static void note(int signal) { order[ordered++] = signal; }

CASE(lower_real_time_signals_come_first) {
    sigset_t set = only(SIGRTMIN + 2);
    sigaddset(&set, SIGRTMIN + 3);
    struct sigaction action = {.sa_handler = note, .sa_mask = set};
    sigaction(SIGRTMIN + 2, &action, NULL);
    sigaction(SIGRTMIN + 3, &action, NULL);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGRTMIN + 3);
    raise(SIGRTMIN + 2);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK(ordered == 2);
    CHECK(order[0] == SIGRTMIN + 2 && order[1] == SIGRTMIN + 3);
}

CASE(an_ignored_signal_vanishes) {
    signal(SIGUSR1, SIG_IGN);
    CHECK(raise(SIGUSR1) == 0);
    sigset_t pending;
    sigpending(&pending);
    CHECK(!sigismember(&pending, SIGUSR1));
}

CASE(a_handler_that_resets_runs_once) {
    struct sigaction now;
    take(SIGUSR1, SA_RESETHAND);
    raise(SIGUSR1);
    CHECK(count == 1);
    CHECK(sigaction(SIGUSR1, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
}

static void again(int signal) {
    if (++count < 3) raise(signal);
}

CASE(a_handler_is_interrupted_by_itself_only_if_it_asks) {
    struct sigaction action = {.sa_handler = again, .sa_flags = SA_NODEFER};
    count = 0;
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    CHECK(count == 3);
}

static volatile int blocked_inside;
static void look_at_mask(int signal) {
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    blocked_inside = sigismember(&mask, SIGUSR1) * 2 + sigismember(&mask, SIGUSR2);
}

CASE(a_handler_runs_with_its_mask_and_gives_it_back) {
    sigset_t mask;
    struct sigaction action = {.sa_handler = look_at_mask, .sa_mask = only(SIGUSR2)};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    CHECK(blocked_inside == 3);
    sigprocmask(SIG_BLOCK, NULL, &mask);
    CHECK(!sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2));
}

CASE(kill_and_stop_cannot_be_taken) {
    struct sigaction action = {.sa_handler = SIG_IGN};
    sigset_t all, mask;
    FAILS(EINVAL, sigaction(SIGKILL, &action, NULL));
    FAILS(EINVAL, sigaction(SIGSTOP, &action, NULL));
    FAILS(EINVAL, sigaction(65, &action, NULL));
    sigfillset(&all);
    DO(sigprocmask(SIG_SETMASK, &all, NULL));
    sigprocmask(SIG_SETMASK, NULL, &mask);
    CHECK(!sigismember(&mask, SIGKILL) && !sigismember(&mask, SIGSTOP));
    sigemptyset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
}

CASE(sigaction_gives_back_what_was_set) {
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_RESTART, .sa_mask = only(SIGHUP)}, now;
    sigaction(SIGUSR1, &action, NULL);
    CHECK(sigaction(SIGUSR1, NULL, &now) == 0);
    CHECK(now.sa_sigaction == handle && (now.sa_flags & (SA_SIGINFO | SA_RESTART)) == (SA_SIGINFO | SA_RESTART));
    CHECK(sigismember(&now.sa_mask, SIGHUP) && !sigismember(&now.sa_mask, SIGINT));
}

static void *where;
static char *stack_low;
static void on_stack(int signal) {
    int here;
    where = &here;
}

CASE(an_alternate_stack_is_used) {
    stack_low = pages(16);
    stack_t stack = {.ss_sp = stack_low, .ss_size = 16 * PAGE}, now;
    struct sigaction action = {.sa_handler = on_stack, .sa_flags = SA_ONSTACK};
    CHECK(sigaltstack(&stack, NULL) == 0);
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    CHECK((char *)where > stack_low && (char *)where < stack_low + 16 * PAGE);
    CHECK(sigaltstack(NULL, &now) == 0 && now.ss_sp == stack_low && now.ss_flags == 0);
    stack = (stack_t){.ss_flags = SS_DISABLE};
    CHECK(sigaltstack(&stack, NULL) == 0);
}

CASE(an_alternate_stack_that_is_too_small_is_enomem) {
    stack_t stack = {.ss_sp = pages(1), .ss_size = 100};
    FAILS(ENOMEM, sigaltstack(&stack, NULL));
    stack = (stack_t){.ss_sp = pages(16), .ss_size = 16 * PAGE, .ss_flags = 1234};
    FAILS(EINVAL, sigaltstack(&stack, NULL));
}

CASE(sigsuspend_waits_under_another_mask) {
    sigset_t block = only(SIGUSR1), none;
    take(SIGUSR1, 0);
    sigprocmask(SIG_BLOCK, &block, NULL);
    raise(SIGUSR1);
    CHECK(count == 0);
    sigemptyset(&none);
    FAILS(EINTR, sigsuspend(&none));
    CHECK(count == 1);
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    CHECK(sigismember(&mask, SIGUSR1));
    sigprocmask(SIG_UNBLOCK, &block, NULL);
}

CASE(sigtimedwait_takes_a_pending_signal) {
    sigset_t set = only(SIGUSR1);
    siginfo_t info;
    struct timespec soon = {0, 1000000};
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 9});
    CHECK(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_value.sival_int == 9);
    FAILS(EAGAIN, sigtimedwait(&set, &info, &soon));
    soon.tv_nsec = -1;
    FAILS(EINVAL, sigtimedwait(&set, &info, &soon));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

CASE(a_signalfd_reads_signals) {
    sigset_t set = only(SIGUSR1);
    struct signalfd_siginfo info;
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = DO(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    FAILS(EAGAIN, read(fd, &info, sizeof info));
    sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 77});
    struct pollfd one = {fd, POLLIN, 0};
    CHECK(poll(&one, 1, 1000) == 1);
    CHECK(read(fd, &info, sizeof info) == sizeof info);
    CHECK(info.ssi_signo == SIGUSR1 && info.ssi_int == 77 && info.ssi_code == SI_QUEUE);
    FAILS(EINVAL, read(fd, &info, 10));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

CASE(a_restarting_handler_lets_read_go_on) {
    int ends[2];
    char byte = 0;
    DO(pipe(ends));
    take(SIGALRM, SA_RESTART);
    void *later(void *argument) {
        while (count < 2) nap(1);
        DO(write(ends[1], "x", 1));
        return NULL;
    }
    pthread_t thread;
    sigset_t set = only(SIGALRM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pthread_create(&thread, NULL, later, NULL);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    ualarm(3000, 3000);
    CHECK(read(ends[0], &byte, 1) == 1 && byte == 'x');
    ualarm(0, 0);
    pthread_join(thread, NULL);
}

CASE(a_handler_without_restart_ends_sleep_with_what_is_left) {
    struct timespec wanted = {10, 0}, left = {0, 0};
    take(SIGALRM, 0);
    ualarm(10000, 0);
    FAILS(EINTR, nanosleep(&wanted, &left));
    CHECK(left.tv_sec == 9);
}

CASE(poll_is_never_restarted) {
    take(SIGALRM, SA_RESTART);
    ualarm(10000, 0);
    FAILS(EINTR, poll(NULL, 0, 5000));
}

static void change_registers(int signal, siginfo_t *info, void *context) {
    ucontext_t *at = context;
    at->uc_mcontext.gregs[REG_R12] = 4242;
}

CASE(a_handler_may_change_the_registers) {
    struct sigaction action = {.sa_sigaction = change_registers, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    long result;
    __asm__ volatile("mov $1, %%r12\n mov $39, %%eax\n syscall\n mov %%eax, %%edi\n mov $10, %%esi\n mov $62, %%eax\n syscall\n mov %%r12, %0"
                     : "=r"(result)
                     :
                     : "rax", "rcx", "rdi", "rsi", "r11", "r12", "memory");
    CHECK(result == 4242);
}

CASE(floating_point_state_survives_a_handler) {
    void spoil(int signal) {
        double values[8];
        for (int i = 0; i < 8; i++) values[i] = i * 3.7;
        __asm__ volatile("movupd %0, %%xmm7\n movupd %1, %%xmm3" ::"m"(values[0]), "m"(values[4]) : "xmm7", "xmm3");
    }
    double kept = 1.25, back = 0;
    signal(SIGUSR1, spoil);
    __asm__ volatile("movsd %1, %%xmm7\n mov $39, %%eax\n syscall\n mov %%eax, %%edi\n mov $10, %%esi\n mov $62, %%eax\n syscall\n movsd %%xmm7, %0"
                     : "=m"(back)
                     : "m"(kept)
                     : "rax", "rcx", "rdi", "rsi", "r11", "xmm7", "memory");
    CHECK(back == 1.25);
}

static sigjmp_buf away;
static void jump(int signal) { siglongjmp(away, 5); }

CASE(a_handler_may_leave_by_a_jump) {
    signal(SIGUSR1, jump);
    for (int i = 0; i < 10; i++) {
        int came = sigsetjmp(away, 1);
        if (came == 0) raise(SIGUSR1);
        CHECK(came == 5);
    }
}

CASE(a_signal_reaches_the_thread_it_is_sent_to) {
    static volatile pid_t seen;
    void see(int signal) { seen = gettid(); }
    void *wait(void *tid) {
        *(volatile pid_t *)tid = gettid();
        while (!seen) nap(1);
        return NULL;
    }
    volatile pid_t tid = 0;
    pthread_t thread;
    signal(SIGUSR2, see);
    pthread_create(&thread, NULL, wait, (void *)&tid);
    while (!tid) nap(1);
    CHECK(pthread_kill(thread, SIGUSR2) == 0);
    pthread_join(thread, NULL);
    CHECK(seen == tid);
}

CASE(a_spinning_thread_is_interrupted) {
    static volatile int stopped;
    void stop(int signal) { stopped = 1; }
    void *spin(void *argument) {
        while (!stopped) {
        }
        return NULL;
    }
    pthread_t thread;
    signal(SIGUSR2, stop);
    pthread_create(&thread, NULL, spin, NULL);
    CHECK(pthread_kill(thread, SIGUSR2) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

CASE(tgkill_knows_its_errors) {
    FAILS(ESRCH, syscall(SYS_tgkill, getpid(), 99999999, 0));
    FAILS(EINVAL, syscall(SYS_tgkill, -1, gettid(), 0));
    FAILS(EINVAL, syscall(SYS_tgkill, getpid(), -1, 0));
    FAILS(EINVAL, syscall(SYS_tgkill, getpid(), gettid(), 77));
    CHECK(syscall(SYS_tgkill, getpid(), gettid(), 0) == 0);
    CHECK(syscall(SYS_tkill, gettid(), 0) == 0);
}

CASE(masks_of_another_size_are_einval) {
    uint64_t set = 0;
    FAILS(EINVAL, syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, NULL, 4));
    FAILS(EINVAL, syscall(SYS_rt_sigprocmask, 77, &set, NULL, 8));
    FAILS(EFAULT, syscall(SYS_rt_sigprocmask, SIG_BLOCK, (void *)8, NULL, 8));
    FAILS(EINVAL, syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4));
}

CASE(an_interval_timer_fires_again_and_again) {
    struct itimerval often = {{0, 2000}, {0, 2000}}, none = {{0, 0}, {0, 0}}, now;
    take(SIGALRM, 0);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    while (count < 5) nap(1);
    CHECK(getitimer(ITIMER_REAL, &now) == 0 && now.it_interval.tv_usec == 2000);
    CHECK(setitimer(ITIMER_REAL, &none, &now) == 0 && now.it_interval.tv_usec == 2000);
    CHECK(last_code == SI_KERNEL);
}
